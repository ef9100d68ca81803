"""A real server, once for all tests: the three bundles as they are, and a small one to train within seconds."""

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation
from served_bundle import small_bundle
from workflows import BUNDLES, ROOT

from aps_components.data.phantoms import write_phantoms
from aps_components.label_server import LabelClient, LabelEnvironment, LabelServer, prepare_app

TURN = np.eye(4)  # no axis is that of the scanner any more
TURN[:3, :3] = Rotation.from_euler("xz", [20, 10], degrees=True).as_matrix()


def pytest_collection_modifyitems(items):
    for item in items:
        if "server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.label_server)


@pytest.fixture(scope="session")
def environment() -> LabelEnvironment:
    folder = Path(os.environ.get("LABEL_ENVIRONMENT", ROOT / ".venv-label"))
    environment = LabelEnvironment(folder)
    if not environment.is_complete:
        pytest.skip(f"no environment with MONAI Label in {folder}: make label-environment")
    return environment


def reoriented(scan: nib.Nifti1Image, axes: str) -> nib.Nifti1Image:
    """The same scan with its voxels stored in another order."""
    return scan.as_reoriented(ornt_transform(io_orientation(scan.affine), axcodes2ornt(axes)))


@pytest.fixture(scope="session")
def phantom_data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("phantom_data")
    write_phantoms(folder, labeled=5, unlabeled=0, validation=0, test=0, shape=(41, 37, 29), progress=False)
    return folder


@pytest.fixture(scope="session")
def studies(phantom_data, tmp_path_factory) -> Path:
    """Five scans, the first of them in four orientations, and one file that was cut short."""
    folder = tmp_path_factory.mktemp("studies")
    scans = sorted((phantom_data / "images").iterdir())
    for number, file in enumerate(scans[1:], start=1):
        shutil.copy(file, folder / f"scan_{number}.nii.gz")
    scan = nib.load(scans[0])
    for axes in ("RAS", "LPS", "PIL"):
        nib.save(reoriented(scan, axes), folder / f"{axes}.nii.gz")
    nib.save(nib.Nifti1Image(np.asanyarray(scan.dataobj), TURN @ scan.affine), folder / "oblique.nii.gz")
    content = scans[1].read_bytes()
    (folder / "broken.nii.gz").write_bytes(content[: len(content) // 2])
    return folder


@pytest.fixture(scope="session")
def server(environment, studies, tmp_path_factory):
    folder = tmp_path_factory.mktemp("label_server")
    bundles = [BUNDLES / name for name in ("la", "amos", "brats")] + [small_bundle(folder / "small")]
    origins = prepare_app(folder / "app", bundles=bundles, untrained=True)
    for bundle in bundles:
        own = bundle / "models" / "model.pt"
        assert (str(own) if own.is_file() else "UNTRAINED") in origins[bundle.name]
    server = LabelServer(
        environment=environment,
        app=folder / "app",
        studies=studies,
        models=list(origins),
        port=0,
        log=folder / "server.log",
        environ={**os.environ, "OMP_NUM_THREADS": "1"},  # as the command line's: more threads add up in another order
    )
    with server:
        yield server


@pytest.fixture(scope="session")
def client(server) -> LabelClient:
    return LabelClient(server.url, timeout=300)
