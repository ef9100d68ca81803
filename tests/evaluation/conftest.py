import json
from pathlib import Path

import pytest
import torch

from aps_components.models import build_auto_prompt_seg, save_settings

TINY_OPTIONS = {
    "network_def#filters": 4,
    "network_def#sam_variant": "tiny",
    "precision": "fp32",
    "overlap": 0.25,
    "device": "cpu",
}
SETTINGS = {
    "labels": {"0": "background", "1": "left atrium"},
    "spacing": None,
    "roi_size": [32, 32, 32],
    "intensity": "zscore",
    "validation_count": 2,
}


@pytest.fixture
def tiny_checkpoint(tmp_path):
    """Writes random weights with their settings beside them: ``tiny_checkpoint("name", seed=1, labeled_count=4)``."""

    def write(name: str = "model", *, seed: int = 0, **settings) -> Path:
        file = tmp_path / name / "model.pt"
        file.parent.mkdir(parents=True)
        torch.manual_seed(seed)
        network = build_auto_prompt_seg(num_classes=2, roi_size=(32, 32, 32), filters=4, sam_variant="tiny")
        torch.save(network.state_dict(), file)
        save_settings(SETTINGS | settings, file)
        return file

    return write


@pytest.fixture
def tiny_options():
    """What a bundle needs to build the network of ``tiny_checkpoint``."""
    return dict(TINY_OPTIONS)


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
