"""A bundle that trains within seconds."""

import json
from pathlib import Path

from workflows import BUNDLES, untrained_copy

SMALL = {"roi_size": [32, 32, 32], "spacing": [1.5, 1.25, 2.0], "epoch_length": 2, "overlap": 0.25}
SMALL_NETWORK = {"filters": 4, "sam_variant": "tiny"}


def small_bundle(folder: Path) -> Path:
    """The left-atrium bundle with a tiny network, at a voxel size that no phantom has."""
    untrained_copy(BUNDLES / "la", folder)
    for name in ("train.json", "inference.json"):
        file = folder / "configs" / name
        content = json.loads(file.read_text())
        content |= {key: value for key, value in SMALL.items() if key in content and name == "train.json"}
        content["network_def"] |= SMALL_NETWORK
        if name == "inference.json":
            content |= {key: f"$trained_setting(@checkpoint, '{key}', {SMALL[key]})" for key in ("spacing", "roi_size")}
        file.write_text(json.dumps(content, indent=4))
    return folder
