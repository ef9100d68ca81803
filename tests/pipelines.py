"""The transforms that the bundles' ``train.json`` lists, with other options, and without a dataset."""

from __future__ import annotations

from typing import Any

from monai.bundle import ConfigParser
from workflows import LA

from aps_components.data import Pipeline

OPTIONS = {
    "spacing": None,
    "in_channels": 1,
    "num_classes": 2,
    "intensity": None,
    "augmentation": "full",
    "flip_axes": [0, 1, 2],
    "label_values": None,
    "balanced_crops": 0.0,
    "swelling": 0.0,
}


def configured(path: str, **options: Any) -> Any:
    """What is at an id of ``train.json``, with options laid over it."""
    parser = ConfigParser()
    parser.read_config(str(LA / "configs" / "train.json"))
    for key, value in {**OPTIONS, **options}.items():
        parser[key] = value
    return parser.get_parsed_content(path)


def training_transforms(**options: Any) -> Pipeline:
    """From files to patches; ``roi_size`` among the options."""
    return configured("train#preprocessing", **options)
