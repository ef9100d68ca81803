"""Bundles with tiny networks and random weights, which is all that moving files about needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from workflows import BUNDLES, untrained_copy

from aps_components.models import build_auto_prompt_seg, save_settings

ROI_SIZE = [32, 32, 32]
NETWORK = {"filters": 2, "sam_variant": "tiny"}


def tiny_bundle(folder: Path, name: str, *, weights: bool = True, **changes: Any) -> Path:
    """A copy of one of the bundles; its network is small, and ``changes`` replace keys of its inference.json."""
    untrained_copy(BUNDLES / name, folder)
    file = folder / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["network_def"] |= NETWORK
    config |= {"precision": "fp32", "overlap": 0.25, **changes}
    file.write_text(json.dumps(config))
    if weights:
        said = json.loads((folder / "configs" / "train.json").read_text()) | changes
        write_weights(folder / "models" / "model.pt", num_classes=len(said["labels"]), channels=said["in_channels"])
    return folder


def write_weights(path: Path, *, num_classes: int, channels: int = 1, seed: int = 0) -> Path:
    """Random ones, with the settings beside them that training would have written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    network = build_auto_prompt_seg(num_classes=num_classes, in_channels=channels, roi_size=ROI_SIZE, **NETWORK)
    torch.save(network.state_dict(), path)
    save_settings({"roi_size": ROI_SIZE, "spacing": [1.5, 1.25, 2.0]}, path)
    return path
