"""The settings beside a checkpoint, ``model.json``: data of known types, and nothing that a configuration would run.

Training, evaluation, calibration, inference and MONAI Label hand these values on into MONAI's configuration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import torch

from aps_components.models.auto_prompt_seg import Predictor
from aps_components.options import OF_THE_FOREGROUND
from aps_components.plain_json import read_object, refuse_config_syntax
from aps_components.terminal import shown

MEND = "copy the file again from the training, delete it, or train again"
MOST_VOXELS = 4096  # of a patch along an axis
# What a model was trained with whose settings do not say so: there was nothing else.
SETTINGS_OF_BEFORE = {"backbone": "vnet", "strides": None, "kernel_sizes": None}
# Names of files, which may begin with anything: no configuration gets these.
KEPT_HERE = ("cases", "pretrained", "sam_checkpoint")
Check = Callable[[Any], bool]


class CheckpointError(ValueError):
    """A checkpoint file that cannot be used; the message names the file and the mend."""


def settings_file(path: str | Path) -> Path:
    """Where the settings of a checkpoint lie: ``model.json`` beside ``model.pt``."""
    return Path(path).with_suffix(".json")


def read_settings(path: str | Path) -> dict[str, Any]:
    """What a checkpoint was trained with: the file beside it, or else what it holds itself, as ``checkpoint.pt`` does.

    Empty where there is neither.

    Raises:
        CheckpointError: they are no JSON object, hold what MONAI's configuration would run, or a value of another type
            than training writes.
    """
    file, path = settings_file(path), Path(path)
    if file.exists():
        found = read_object(file, mend=MEND, error=CheckpointError)
    elif path.is_file():
        file, found = path, _settings_inside(path, path.stat().st_mtime_ns, path.stat().st_size)
    else:
        return {}
    return {**SETTINGS_OF_BEFORE, **checked_settings(found, where=str(file))} if found else {}


@lru_cache(maxsize=8)
def _settings_inside(path: Path, changed: int, size: int) -> dict[str, Any]:
    """Of a whole training's state, without reading its weights; ``changed`` and ``size`` tell files of a name apart."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # a damaged file, which is refused by name when its weights are read
        return {}
    settings = content.get("settings") if isinstance(content, dict) else None
    return dict(settings) if isinstance(settings, Mapping) else {}


def checked_settings(settings: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Settings that were read from ``where``, given back; errors as of :func:`read_settings`."""
    handed_on = {key: value for key, value in settings.items() if key not in KEPT_HERE}
    refuse_config_syntax(handed_on, where=where, error=CheckpointError)
    classes, stored = settings.get("labels"), settings.get("network_def")
    for key, value in settings.items():
        check, wanted = TYPES.get(key, (_is_anything, ""))
        if not check(value):
            raise CheckpointError(f"{where}: {key} is {shown(value)[:80]}, where {wanted} is wanted; {MEND}")
    of_network = stored.get("num_classes") if isinstance(stored, dict) else None
    if isinstance(classes, dict) and isinstance(of_network, int) and len(classes) != of_network:
        raise CheckpointError(
            f"{where}: labels names {len(classes)} classes, and network_def has {of_network} of them; {MEND}"
        )
    return settings


def _is_whole(value: Any, *, least: int = 0, most: float = math.inf) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_anything(value: Any) -> bool:
    return True


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _is_spacing(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_is_number(size) and size > 0 for size in value)


def _is_roi_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_is_whole(s, least=1, most=MOST_VOXELS) for s in value)


def _is_labels(value: Any) -> bool:
    return isinstance(value, dict) and all(key.isdecimal() and _is_text(name) for key, name in value.items())


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_axes(value: Any) -> bool:
    flat = value if isinstance(value, list) else [None]
    flat = [axis for entry in flat for axis in (entry if isinstance(entry, list) else [entry])]
    return all(_is_whole(axis, most=2) for axis in flat) and len(set(flat)) == len(flat)


def _are_pieces(value: Any) -> bool:
    return _is_truth(value) or value in OF_THE_FOREGROUND


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _are_triples(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(triple, list) and len(triple) == 3 and all(_is_whole(size, least=1) for size in triple)
        for triple in value
    )


def _are_cases(value: Any) -> bool:
    """Identities by part, as ``data.case_identities`` writes them."""
    if not isinstance(value, dict) or not all(isinstance(found, list) for found in value.values()):
        return False
    return all(_is_case(case) for found in value.values() for case in found)


def _is_case(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(value.get("name")) and _are_texts(value.get("image"))


def _is_intensity(value: Any) -> bool:
    windows = value.values() if isinstance(value, dict) else ()
    return _is_text(value) or (
        isinstance(value, dict) and all(isinstance(pair, list) and all(map(_is_number, pair)) for pair in windows)
    )


COUNT = (_is_whole, "a whole number from 0 on")


def trained_b(settings: Mapping[str, Any]) -> bool:
    """Whether the settings of a training say that Model B was trained, and not Model A alone."""
    return bool((settings.get("objective") or {}).get("train_b", True))


TYPES: Mapping[str, tuple[Check, str]] = {
    "spacing": (_or_none(_is_spacing), "three sizes in mm above 0, or null"),
    "roi_size": (_is_roi_size, "three whole numbers from 1 on"),
    "intensity": (_or_none(_is_intensity), "a word, or a window of two numbers"),
    "fusion": (_is_text, "a word"),
    "labels": (_is_labels, "an object of class numbers and names"),
    "modalities": (_or_none(_are_texts), "a list of names, or null"),
    "flip_axes": (_are_axes, "a list of the axes 0, 1 and 2"),
    "inference_mirror_axes": (_are_axes, "a list of the axes 0, 1 and 2"),
    "inference_predictor": (lambda value: value in get_args(Predictor), f"one of {', '.join(get_args(Predictor))}"),
    "predictor": (lambda value: value in get_args(Predictor), f"one of {', '.join(get_args(Predictor))}"),
    **dict.fromkeys(("labeled_count", "ignore"), (_or_none(_is_whole), "a whole number from 0 on, or null")),
    "labeled_by_hand": (_or_none(_is_whole), "a whole number from 0 on, or null"),
    **dict.fromkeys(("untrained", "train_a"), (_is_truth, "true or false")),
    "largest_component": (_are_pieces, 'true, false, "joined" or "foreground"'),
    "backbone": (_is_text, "a word"),
    **dict.fromkeys(("strides", "kernel_sizes"), (_or_none(_are_triples), "a list of triples, or null")),
    **dict.fromkeys(("network_def", "objective", "others"), (_is_object, "an object")),
    **dict.fromkeys(("simulated_user", "label_values", "regions"), (_or_none(_is_object), "an object, or null")),
    "temperature": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "doubt": (_or_none(_is_object), "an object, or null"),
    **dict.fromkeys(("preprocessing", "transforms"), (_are_texts, "a list of texts")),
    "cases": (_are_cases, "an object of lists of scans"),
    "code": (_is_text, "a version"),
    "in_channels": (lambda value: _is_whole(value, least=1), "a whole number from 1 on"),
    **dict.fromkeys(("validation_count", "seed", "epochs", "epoch_length", "warmup_epochs"), COUNT),
    **dict.fromkeys(("labeled_batch", "unlabeled_batch", "decision_interval", "mc_samples"), COUNT),
    **dict.fromkeys(("learning_rate", "weight_decay", "ema_decay"), (_is_number, "a number")),
    **dict.fromkeys(("balanced_crops", "swelling"), (_is_number, "a number")),
}
