"""The bundles without their weights: refused, or packaged as untrained."""

import json
import zipfile

import pytest
from workflows import BUNDLES, OURS, untrained_copy

from aps_components.bundle.packaging import PackageError, package_bundle

pytestmark = pytest.mark.slow


@pytest.fixture(params=OURS)
def bundle(request, tmp_path):
    return untrained_copy(BUNDLES / request.param, tmp_path / request.param)


def test_it_is_packaged_as_untrained_alone(bundle, tmp_path):
    with pytest.raises(PackageError) as error:
        package_bundle(bundle, out=tmp_path)
    (fault,) = error.value.faults
    assert fault.startswith("no checkpoint at ")
    assert fault.endswith("without weights, package with --untrained")
    written = package_bundle(bundle, out=tmp_path, untrained=True)
    with zipfile.ZipFile(written.archive) as stream:
        names = stream.namelist()
        metadata = json.loads(stream.read(f"{bundle.name}/configs/metadata.json"))
        page = stream.read(f"{bundle.name}/docs/README.md").decode()
    assert written.archive.name == f"{bundle.name}_v{metadata['version']}_untrained.zip"
    assert [name for name in names if "/models/" in name and "aps_components" not in name] == [
        f"{bundle.name}/models/README.md"
    ]
    said = "Untrained: no weights come with it; train first."
    assert metadata["untrained"] is True
    assert said in page
