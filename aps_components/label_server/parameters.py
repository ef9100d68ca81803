"""What a request to MONAI Label may say: names without paths, and parameters of known names and types.

MONAI Label hands most of what it receives on as it is: parameters of a training into MONAI's configuration, which runs
a text that begins with "$", and names into paths of files.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from aps_components.plain_json import refuse_config_syntax
from aps_components.terminal import shown

FINAL = "final"  # the tag of labels by hand, which are trained on
PARTIAL = "partial"  # the tag of those in which something was not labelled
BY_HAND = (FINAL, PARTIAL)
LONGEST_NAME = 255
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:()-]{0,99}")
GPUS = re.compile(r"(all|\d{1,3}(,\d{1,3}){0,31})?")
WEIGHTS_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\.pt")
ENDINGS = (".nii", ".nii.gz", ".nrrd", "", None)
NUMBER_TYPES = ("uint8", "uint16", "int8", "int16", "int32", "float32", "", None)
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
MOST_EPOCHS = 100_000
MOST_NUMBERS = 10_000
Check = Callable[[Any], bool]


class RefusedRequestError(ValueError):
    """A request that is not handed on to MONAI Label; the message says which part of it.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


def check_name(value: str, *, what: str) -> str:
    """The name of a scan, a label, a model or a session: of one file, and of none elsewhere; gives it back."""
    separators = "/" in value or "\\" in value or re.match(r"[A-Za-z]:", value)
    hidden = any(unicodedata.category(letter).startswith("C") for letter in value)
    if not value or separators or hidden or value.startswith((".", "~")) or len(value.encode()) > LONGEST_NAME:
        raise RefusedRequestError(f"{what} '{shown(value)[:80]}' must be a name, without a path")
    return value


def check_tag(value: str) -> str:
    """The tag of a label, which names its folder; gives it back."""
    if not TAG.fullmatch(value):
        raise RefusedRequestError(f"tag '{shown(value)[:80]}' must be of letters, digits, _ and - alone")
    if value not in BY_HAND and value.lower() in BY_HAND:
        raise RefusedRequestError(f"tag {value!r}: labels by hand are read under {value.lower()!r} alone; send that")
    return value


def check_training(params: Any) -> None:
    """Parameters of a training: those that MONAI Label's own panel has, each of its type."""
    _check(params, TRAINING, "a training")


def check_inference(params: Any, *, classes: Collection[str] = ()) -> None:
    """Parameters of an inference. What a model answers is never stored as a label by hand.

    Args:
        params: of the request.
        classes: names of classes, which may have points.
    """
    points = dict.fromkeys(classes, (_are_numbers, "points [i, j, k]"))
    _check(params, {**points, **INFERENCE}, "an inference")
    tags = params.get("label_tag")
    if by_hand := [tag for tag in (tags if isinstance(tags, list) else [tags]) if tag in BY_HAND]:
        raise RefusedRequestError(
            f"a model's label is not stored with the tag {by_hand[0]!r}, which is that of labels by hand"
        )


def check_choice(params: Any) -> None:
    """Parameters of choosing the next scan, or of scoring."""
    _check(params, CHOICE, "this request")


def check_info(info: Any, *, what: str = "info") -> None:
    """What a viewer notes about a scan or a label: any object that is no code."""
    if not isinstance(info, dict):
        raise RefusedRequestError(f"{what} must be a JSON object")
    refuse_config_syntax(info, where=what, error=RefusedRequestError)


def _check(params: Any, known: Mapping[str, tuple[Check, str]], what: str) -> None:
    if not isinstance(params, dict):
        raise RefusedRequestError(f"the parameters of {what} must be a JSON object")
    for key, value in params.items():
        if key not in known:
            raise RefusedRequestError(f"{what} has no parameter '{shown(key)[:80]}'; there are: {', '.join(known)}")
        fits, wanted = known[key]
        if not fits(value):
            raise RefusedRequestError(f"{key} '{shown(value)[:80]}' must be {wanted}")
    refuse_config_syntax(params, where=f"the parameters of {what}", error=RefusedRequestError)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_one_of(choices: Sequence[Any]) -> Check:
    return lambda value: not isinstance(value, bool | list | dict) and value in choices


def _is_whole(least: int, most: int) -> Check:
    return lambda value: type(value) is int and least <= value <= most


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and (value == -1 or 0 <= value < 1)


def _matches(pattern: re.Pattern[str]) -> Check:
    """A text, or a list of the choices that a viewer was offered."""

    def check(value: Any) -> bool:
        texts = value if isinstance(value, list) else [value]
        return all(isinstance(text, str) and pattern.fullmatch(text) for text in texts)

    return check


def _is_name(value: Any) -> bool:
    return value is None or (
        isinstance(value, str) and len(value) <= LONGEST_NAME and not re.search(r"[/\\\x00]", value)
    )


def _are_numbers(value: Any) -> bool:
    """Points, a region or a slice: numbers, also in lists of lists."""
    waiting, count = [value], 0
    while waiting:
        entry = waiting.pop()
        count += 1
        if isinstance(entry, list):
            waiting += entry
        elif type(entry) not in (int, float) or not math.isfinite(entry):
            return False
        if count > MOST_NUMBERS:
            return False
    return True


def _is_notes(value: Any) -> bool:
    return isinstance(value, list | dict)


NAME = (_is_name, "a name, without a path")
SWITCH = (_is_bool, "true or false")
HARDWARE: dict[str, tuple[Check, str]] = {
    "device": (_matches(DEVICE), "the name of a device, such as cpu, cuda or cuda:1"),
    "multi_gpu": SWITCH,
    "gpus": (_matches(GPUS), 'numbers of GPUs with commas between, or "all"'),
}
TRAINING: dict[str, tuple[Check, str]] = {
    **HARDWARE,
    "max_epochs": (_is_whole(1, MOST_EPOCHS), f"a whole number from 1 to {MOST_EPOCHS}"),
    "val_split": (_is_share, "a share from 0 to less than 1, or -1"),
    "pretrained": SWITCH,
    "model_filename": (_matches(WEIGHTS_FILE), "a file of the model's folder that ends in .pt"),
    "tracking": (_is_one_of(("None", "", None)), '"None": experiments are tracked by nothing here'),
    "tracking_uri": (_is_one_of(("", None)), "empty"),
    "tracking_experiment_name": (_is_one_of(("", None)), "empty"),
    "tracking_run_name": (_is_one_of(("", None)), "empty"),
    "run_id": (_is_one_of(("", "run", "training", None)), '"run" or empty'),
    "client_id": NAME,
    "user": NAME,
}
INFERENCE: dict[str, tuple[Check, str]] = {
    **HARDWARE,
    "model_filename": (_matches(WEIGHTS_FILE), "a file of the model's folder that ends in .pt"),
    "result_extension": (_is_one_of(ENDINGS), "one of .nii, .nii.gz and .nrrd"),
    "result_dtype": (_is_one_of(NUMBER_TYPES), f"one of {', '.join(name for name in NUMBER_TYPES if name)}"),
    "result_compress": SWITCH,
    "restore_label_idx": SWITCH,
    "reset_state": SWITCH,
    "save_label": SWITCH,
    "label_tag": (_matches(TAG), "a tag of letters, digits, _ and -"),
    "logging": (_is_one_of(LOG_LEVELS), f"one of {', '.join(LOG_LEVELS)}"),
    "label_info": (_is_notes, "a list"),
    "labels": (_is_notes, "a list"),
    "label": NAME,
    "selected_label_name": NAME,
    **dict.fromkeys(("roi", "slice", "foreground", "background", "spatial_size"), (_are_numbers, "numbers")),
    "max_workers": (_is_whole(0, 64), "a whole number from 0 to 64"),
    "max_batch_size": (_is_whole(0, 10**6), "a whole number from 0 on"),
    "client_id": NAME,
    "user": NAME,
}
CHOICE: dict[str, tuple[Check, str]] = {
    "label_tag": (_matches(TAG), "a tag of letters, digits, _ and -"),
    "labels": (_is_notes, "a list"),
    "client_id": NAME,
    "user": NAME,
    **dict.fromkeys(("y", "y_pred"), (_matches(TAG), "a tag of letters, digits, _ and -")),
}
