"""A bundle's model as its own inference uses it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from aps_components.configuration.bundle_workflow import TRAINED_WITH, BundleConfig
from aps_components.interactive import LoadedModel, load_model
from aps_components.models import TRAINED_KEYS, settings_file

OPTIONS = ("overlap", "mirror_axes", "predictor", "precision", "largest_component")


def inference_config(bundle: Path, checkpoint: Path) -> BundleConfig:
    """The configuration of a bundle's inference with some weights."""
    config = BundleConfig.read(bundle, "inference.json")
    config.change({"bundle_root": os.path.abspath(bundle), "checkpoint": os.path.abspath(checkpoint)})
    return config


def load_bundle_model(checkpoint: Path, device: str) -> LoadedModel:
    """From weights in a bundle's ``models`` folder, with the options of its ``inference.json``."""
    config = inference_config(checkpoint.parent.parent, checkpoint)
    options: dict[str, Any] = {key: config.value(key) for key in OPTIONS if key in config.parser}
    if not settings_file(checkpoint).is_file():
        trained = config.value(TRAINED_WITH)
        options = {key: value for key, value in trained.items() if key in TRAINED_KEYS} | options
    return load_model(checkpoint, device, settings=options)
