"""A bundle's model as its own inference uses it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from aps_components.interactive import LoadedModel, load_model
from aps_components.models import TRAINED_KEYS, settings_file

OPTIONS = ("overlap", "mirror_axes", "predictor", "precision", "largest_component")


def bundle_parser(bundle: Path, checkpoint: Path) -> ConfigParser:
    """The configuration of a bundle's inference with some weights."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    # As absolute paths, which are never taken for an expression.
    parser["bundle_root"], parser["checkpoint"] = os.path.abspath(bundle), os.path.abspath(checkpoint)
    return parser


def load_bundle_model(checkpoint: Path, device: str) -> LoadedModel:
    """From weights in a bundle's ``models`` folder, with the options of its ``inference.json``."""
    parser = bundle_parser(checkpoint.parent.parent, checkpoint)
    options: dict[str, Any] = {key: parser.get_parsed_content(key) for key in OPTIONS if key in parser.config}
    if not settings_file(checkpoint).is_file():
        trained = parser.get_parsed_content("trained_with")
        options = {key: value for key, value in trained.items() if key in TRAINED_KEYS} | options
    return load_model(checkpoint, device, settings=options)
