import importlib
import json
from pathlib import Path

import pytest
import torch
from workflows import ROOT, TINY

from aps_components.data.phantoms import write_phantoms
from aps_components.models import build_auto_prompt_seg, save_settings

# Threads cost more than they bring on tiny volumes, and the last bit of a sum depends on their number.
torch.set_num_threads(1)

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
SETTINGS = {
    "labels": {"0": "background", "1": "left atrium"},
    "spacing": None,
    "roi_size": [32, 32, 32],
    "intensity": "zscore",
    "fusion": "none",
    "validation_count": 2,
}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real scans, which are not part of the project and may be missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real scans at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture
def benchmark(monkeypatch):
    """A module of ``benchmarks/``, by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """A dataset folder: 4 labelled, 3 unlabelled, 2 validation and 2 test phantoms of 40 x 36 x 32 voxels."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, labeled=4, unlabeled=3, validation=2, test=2, shape=(40, 36, 32), progress=False)
    return folder


@pytest.fixture(scope="session")
def labelled_phantoms(tmp_path_factory) -> Path:
    """6 training phantoms that all have a label file and a label in the datalist, 1 validation and 2 test phantoms."""
    folder = tmp_path_factory.mktemp("labelled_phantoms")
    write_phantoms(folder, labeled=6, unlabeled=0, validation=1, test=2, shape=(40, 36, 32), progress=False)
    assert all("label" in case for case in json.loads((folder / "datalist.json").read_text())["training"])
    return folder


@pytest.fixture
def unsplit(phantoms, tmp_path):
    """The phantoms with a datalist that names no validation scans: 4 with a label to train on."""
    content = json.loads((phantoms / "datalist.json").read_text())
    cases = [
        {key: str(phantoms / file) for key, file in case.items()} for case in content["training"] if "label" in case
    ]
    folder = tmp_path / "unsplit"
    folder.mkdir()
    (folder / "datalist.json").write_text(
        json.dumps({"name": "unsplit", "labels": content["labels"], "training": cases})
    )
    return folder


@pytest.fixture
def tiny_checkpoint(tmp_path):
    """Writes random weights with their settings beside them: ``tiny_checkpoint("name", seed=1, labeled_count=4)``."""

    def write(name: str = "model", *, seed: int = 0, **settings) -> Path:
        file = tmp_path / name / "model.pt"
        file.parent.mkdir(parents=True)
        torch.manual_seed(seed)
        network = build_auto_prompt_seg(
            num_classes=2, roi_size=(32, 32, 32), filters=2, sam_variant="tiny", fusion=SETTINGS["fusion"]
        )
        torch.save(network.state_dict(), file)
        save_settings(SETTINGS | settings, file)
        return file

    return write


@pytest.fixture
def tiny_options():
    """What a bundle needs to build the network of ``tiny_checkpoint``."""
    return {key: value for key, value in TINY.items() if key not in ("bundle_root", "roi_size")}
