"""The wheel, as somebody uses it who has nothing else: in an environment of its own, without the repository."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bare_environment import make_environment, run
from workflows import LA, ROOT

import aps_components
from aps_components.files import sha256_of

pytestmark = pytest.mark.slow

NOTEBOOK = """
import sys
import aps_components
model = aps_components.load_model("la", "cpu")
predictor = aps_components.Predictor(model)
predictor.set_image(sys.argv[1])
answer = predictor.predict([((20, 18, 16), "left atrium")])
print(aps_components.__file__, model.checkpoint, answer.label_map.shape, answer.label_map[20, 18, 16])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what git knows, so that nothing that was built before gets into it."""
    folder = tmp_path_factory.mktemp("wheel")
    known = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if known.returncode:
        pytest.skip("not a clone")
    for name in filter(None, known.stdout.decode().split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "copy" / name)
    build = "from setuptools.build_meta import build_wheel; build_wheel('../dist')"
    (folder / "dist").mkdir()
    subprocess.run([sys.executable, "-c", build], cwd=folder / "copy", capture_output=True, check=True)
    (file,) = (folder / "dist").glob("*.whl")
    return file


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """Of an environment with the wheel's content and what it needs, and nothing else."""
    folder = tmp_path_factory.mktemp("environment") / "empty"
    needed = make_environment(folder, ["aps-components"])
    (packages,) = folder.glob("lib/python3.*/site-packages")
    for link in packages.glob("*aps_components*"):
        link.unlink()  # of the repository
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    return needed


def test_the_wheel_holds_the_bundles_and_nothing_that_was_made_here(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    shipped = {name.split("/")[2] for name in names if name.startswith("aps_components/shipped_bundles/")}
    assert shipped == {"amos", "brats", "la"}
    assert "aps_components/shipped_bundles/la/models/model.pt" in names
    assert not [name for name in names if "/eval/" in name or "__pycache__" in name or name.startswith("tests")]
    assert wheel.name.startswith(f"aps_components-{aps_components.__version__}-py3-none-any")


def test_a_scan_is_segmented_by_the_bundles_name(python, phantoms, tmp_path):
    scan = phantoms / "images" / "phantom_000.nii.gz"
    command = ("-m", "aps_components", "segment", scan, tmp_path / "out", "--bundle", "la", "--device=cpu")
    done = run(python, *command, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = nib.load(tmp_path / "out" / "phantom_000_seg.nii.gz")
    assert found.shape == nib.load(scan).shape
    assert set(np.unique(found.dataobj)) <= {0, 1}
    assert (tmp_path / "out" / "phantom_000_preview.png").is_file()


def test_a_notebook_clicks_with_the_shipped_model(python, phantoms, tmp_path):
    scan = phantoms / "images" / "phantom_000.nii.gz"
    done = run(python, "-c", NOTEBOOK, scan, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    package, checkpoint, said = done.stdout.strip().splitlines()[-1].split(" ", 2)
    assert Path(package).is_relative_to(python.parents[1])
    assert Path(checkpoint).is_relative_to(python.parents[1])
    assert sha256_of(Path(checkpoint)) == sha256_of(LA / "models" / "model.pt")
    assert said == "(40, 36, 32) 1"
