"""What a whole training was asked for: times, options, and which of them are the recipe's own to set."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aps_components.bundle.writer import template
from aps_components.configuration import DATASET_OPTIONS
from aps_components.files import replace_text
from aps_components.options import decided, refuse_unknown
from aps_components.plain_json import parse_json, read_object

UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "min": 60.0, "s": 1.0}
TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(d|h|min|m|s)")
# What every stage has its own value of, and where it comes from.
OWN = {
    **dict.fromkeys(("dataset_dir", "bundle_root"), "it comes from DATA"),
    **dict.fromkeys(("ckpt_dir", "output_dir", "checkpoint"), "everything is written into --out"),
    **dict.fromkeys(("epochs", "epoch_length", "warmup_epochs", "val_interval"), "it follows from --time and --recipe"),
    **dict.fromkeys(("labeled_batch", "unlabeled_batch", "learning_rate"), "give it in --recipe"),
    **dict.fromkeys(("labeled_count", "validation_count", "pretrained", "pretrained_part"), "the rounds set it"),
    **dict.fromkeys(("train_a", "objective#train_b"), "Model A is trained first, then Model B beside it"),
    **dict.fromkeys(("predictor", "mirror_axes"), "held-out scans decide about it"),
}


def parse_time(time: str | int | float) -> float:
    """Seconds of a text such as ``4h``, ``90m``, ``1h30m`` or ``45s``.

    Raises:
        ValueError: it has no unit, or is none; how to write it.
    """
    text = str(time).strip().lower()
    parts = TIME.findall(text)
    if not parts or TIME.sub("", text).strip():
        raise ValueError(f"time {time!r} must be a number with its unit, such as 4h, 90m or 1h30m")
    seconds = sum(float(count) * UNITS[unit] for count, unit in parts)
    if seconds <= 0:
        raise ValueError(f"time {time!r} must be more than nothing")
    return seconds


def checked_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the dataset, which become the bundle's, and those of every training.

    Raises:
        ValueError: an option that there is not, that a whole training sets itself, or whose value does not fit.
    """
    refuse_unknown(options, {*parse_json(template("train.json"), name="train.json"), *DATASET_OPTIONS})
    if found := decided(options, OWN):
        key, name = found
        raise ValueError(f"--{key} is not for aps train: {OWN[name]}")
    of_dataset = {key: DATASET_OPTIONS[key](key, value) for key, value in options.items() if key in DATASET_OPTIONS}
    return of_dataset, {key: value for key, value in options.items() if key not in DATASET_OPTIONS}


def set_options(bundle: Path, options: Mapping[str, Any]) -> None:
    """Write options into a bundle's configurations, which then say what its model was trained with.

    Args:
        bundle: its folder.
        options: of ``train.json``, a "#" reaches inside; those of ``inference.json``, too, are set there as well.

    Raises:
        ValueError: an option reaches into what has no inside.
    """
    for name in ("train.json", "inference.json") if options else ():
        file = bundle / "configs" / name
        content = read_object(file)
        for key, value in options.items():
            if name == "train.json" or key in content:
                _set(content, key, value)
        replace_text(file, json.dumps(content, indent=4, ensure_ascii=False) + "\n")


def _set(content: dict[str, Any], key: str, value: Any) -> None:
    *outer, last = key.split("#")
    for part in outer:
        content = content.get(part)  # type: ignore[assignment]
        if not isinstance(content, dict):
            raise ValueError(f"no option --{key}: {part} has nothing inside")
    content[last] = value
