"""An archive, a server and a browser, once for all tests of the viewer."""

import json
import os
import shutil
from pathlib import Path

import pytest
from orthanc import Orthanc, missing, write_series
from served_labels import PATIENCE_MS
from workflows import BUNDLES, ROOT

from aps_components.data.phantoms import write_phantoms
from aps_components.label_server import LabelClient, LabelEnvironment, LabelServer, prepare_app

# Without a graphics card; everything is drawn by the processor.
ARGUMENTS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
ORIENTATIONS = {"PHANTOM-1": "LPS", "PHANTOM-2": "PIR"}


@pytest.fixture(scope="session")
def environment() -> LabelEnvironment:
    environment = LabelEnvironment(Path(os.environ.get("LABEL_ENVIRONMENT", ROOT / ".venv-label")))
    if not environment.is_complete:
        pytest.skip(f"no environment with MONAI Label in {environment.folder}: make label-environment")
    return environment


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("archive")
    write_phantoms(folder / "phantoms", labeled=2, unlabeled=0, validation=0, test=0, progress=False)
    with Orthanc(folder / "orthanc") as orthanc:
        orthanc.studies = {}
        # Of the first of these two the left atrium's answer leaks into the neighbour.
        scans = sorted((folder / "phantoms" / "images").iterdir(), reverse=True)
        for scan, (name, axes) in zip(scans, ORIENTATIONS.items(), strict=True):
            orthanc.studies[name] = write_series(scan, folder / name, name=name, axes=axes)
            orthanc.add(folder / name)
        yield orthanc


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    """The left-atrium bundle with its weights, whose training is one short iteration."""
    bundle = tmp_path_factory.mktemp("bundles") / "la"
    shutil.copytree(BUNDLES / "la", bundle)
    file = bundle / "configs" / "train.json"
    short = {"epoch_length": 1, "labeled_batch": 1, "unlabeled_batch": 1}
    file.write_text(json.dumps(json.loads(file.read_text()) | short))
    return bundle


@pytest.fixture(scope="session")
def server(environment, archive, bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    prepare_app(folder / "app", bundles=[bundle])
    server = LabelServer(
        environment=environment,
        app=folder / "app",
        studies=f"{archive.url}/dicom-web",
        models=["la"],
        port=0,
        log=folder / "server.log",
        environ={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with server:
        yield server


@pytest.fixture(scope="session")
def client(server) -> LabelClient:
    return LabelClient(server.url, timeout=PATIENCE_MS / 1000)


@pytest.fixture(scope="session")
def page():
    playwright = pytest.importorskip("playwright.sync_api", reason="there is no browser driver: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no browser: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(PATIENCE_MS)
        page.on("dialog", lambda dialog: dialog.accept())
        # OHIF asks for letters from elsewhere; nothing else may leave this machine.
        page.route("**/*", lambda route: route.continue_() if "//127.0.0.1" in route.request.url else route.abort())
        yield page
        browser.close()


@pytest.fixture
def picture(page):
    """Keeps what the page shows, for the documentation, where VIEWER_PICTURES names a folder."""

    def keep(name):
        if folder := os.environ.get("VIEWER_PICTURES"):
            page.screenshot(path=Path(folder) / f"{name}.jpg", type="jpeg", quality=70)

    return keep
