"""A whole bundle with a network of the smallest sizes, and its checkpoint, to package."""

import json
from pathlib import Path

import torch
from workflows import BUNDLES, untrained_copy

from aps_components.models import build_auto_prompt_seg

# Of the bundle that is copied, and so of what is packaged from the copy.
VERSION = json.loads((BUNDLES / "la" / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"]
SIZES = {"filters": 4, "sam_variant": "tiny"}
SETTINGS = {
    "dataset": "made up",
    "labels": {"0": "background", "1": "left atrium"},
    "in_channels": 1,
    "modalities": None,
    "spacing": [1.5, 1.5, 2.0],
    "roi_size": [32, 48, 32],
    "intensity": "zscore",
    "fusion": "cafa",
    "seed": 3,
}


def copy_bundle(folder: Path, *, of: str = "la", trained: bool = True) -> Path:
    """A bundle in a new folder; by default that of one channel and two classes, which the checkpoint has, too."""
    untrained_copy(BUNDLES / of, folder)
    for name, target in (("train.json", "build_auto_prompt_seg"), ("inference.json", "build_trained")):
        edit(folder / "configs" / name, f'.{target}",', f'.{target}", {json.dumps(SIZES)[1:-1]},')
    if trained:
        write_model(folder / "models" / "model.pt")
    return folder


def edit(path: Path, before: str, after: str) -> None:
    """Replace a text that is there exactly once."""
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{path}: {before!r} is there {text.count(before)} times"
    path.write_text(text.replace(before, after), encoding="utf-8")


def edit_json(path: Path, **changes: object) -> None:
    """Set some top-level keys; an Ellipsis removes one."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in content.items() if value is not ...}
    path.write_text(json.dumps(kept, indent=4), encoding="utf-8")


def state_dict(**changes: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    sizes = {key: SETTINGS[key] for key in ("roi_size", "fusion")} | {"num_classes": 2} | SIZES | changes
    return build_auto_prompt_seg(**sizes).state_dict()


def write_model(path: Path, content: object = None, **settings: object) -> Path:
    """A checkpoint and the settings of its training."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state_dict() if content is None else content, path)
    path.with_suffix(".json").write_text(json.dumps(SETTINGS | settings))
    return path
