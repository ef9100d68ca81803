"""The dataset block: the only lines in which one bundle's configuration differs from another's."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from aps_components.data import intensity_transforms
from aps_components.models import TRAINED_KEYS
from aps_components.networks.feature_fusion import FusionKind
from aps_components.options import axis_groups
from aps_components.plain_json import read_object

STRIDE = 16  # of the V-Net; patches and windows are divisible by it
LINE_LENGTH = 120
INDENT = " " * 4
INFERENCE_KEYS = (
    "labels",
    "in_channels",
    "modalities",
    "spacing",
    "roi_size",
    "intensity",
    "largest_component",
    "fusion",
)
# How a text may not begin that MONAI's configuration reads: it would be run, looked up or merged.
SPECIAL = ("$", "@", "%", "+", "_")


@dataclass(frozen=True, kw_only=True)
class DatasetBlock:
    """What a bundle says about its dataset, as in ``train.json``; the defaults are those for a new dataset.

    Args:
        labels: class value, as text, to class name; "0" is the background.
        label_values: value in the label files, as text, to class; values that are not named keep their number.
        regions: name to classes: unions that are reported instead of the classes.
        in_channels: channels of an image.
        modalities: which files of a case, in channel order; None takes a case's image as it is.
        spacing: voxel size in mm; None keeps each scan's own.
        roi_size: patch and window.
        intensity: see ``data.intensity_transforms``.
        flip_axes: that patches are flipped along; those in a list of their own together.
        balanced_crops: share of the labelled patches centred on a voxel of a foreground class, drawn evenly.
        class_weights: of the cross entropy, one per class; None for equal ones.
        largest_component: keep the largest connected piece of each class.
        fusion: of Model A's features with Model B's; see ``models.build_auto_prompt_seg``. Weights fit one kind alone.
        labeled_count: training cases that keep their label; None for all.
        validation_count: training cases that validate if the datalist names none.

    Raises:
        ValueError: values that do not fit: each by name, and how to mend it.
    """

    labels: dict[str, str]
    label_values: dict[str, int] | None = None
    regions: dict[str, list[int]] | None = None
    in_channels: int = 1
    modalities: list[str] | None = None
    spacing: list[float] | None = None
    roi_size: list[int] = field(default_factory=lambda: [96, 96, 96])
    intensity: str | dict[str, list[float]] | None = "zscore"
    flip_axes: list[int | list[int]] = field(default_factory=lambda: [0, 1, 2])
    balanced_crops: float = 0.33
    class_weights: list[float] | None = None
    largest_component: bool = True
    fusion: FusionKind = "none"
    labeled_count: int | None = None
    validation_count: int = 0

    def __post_init__(self) -> None:
        # What the classes are comes first: the other rules count them.
        faults = list(_label_faults(self.labels)) or [*_class_faults(self), *_image_faults(self), *_count_faults(self)]
        if faults:
            raise ValueError("\n".join(faults))

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.labels)

    @classmethod
    def read(cls, train_json: str | os.PathLike[str]) -> DatasetBlock:
        """The block of a bundle's ``configs/train.json``.

        Raises:
            ValueError: it is not JSON, lacks a key or holds a value that does not fit; names the file.
        """
        path = Path(train_json)
        try:
            content = read_object(path)
            return cls(**{entry.name: content[entry.name] for entry in fields(cls)})
        except KeyError as error:
            raise ValueError(f"{path}: the dataset block has no {error}; add it") from error
        except ValueError as error:
            raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error

    def text(self, keys: Sequence[str] | None = None) -> str:
        """The lines of ``train.json``: one per key, in the order of the fields, each with its comma."""
        named = [entry.name for entry in fields(self) if keys is None or entry.name in keys]
        return "".join(_line(name, getattr(self, name)) for name in named)

    def inference_text(self) -> str:
        """The lines of ``inference.json``: what a checkpoint was trained with comes before the block's own value."""
        values = {name: getattr(self, name) for name in INFERENCE_KEYS}
        values |= {name: f"$trained_setting(@checkpoint, {name!r}, {values[name]!r})" for name in TRAINED_KEYS}
        return "".join(_line(name, value) for name, value in values.items())


def _line(key: str, value: Any) -> str:
    """One entry on one line; an object that is too long for one, such as many labels, on one for each of its own."""
    line = f"{INDENT}{json.dumps(key)}: {_json(value)},\n"
    if len(line) <= LINE_LENGTH or not isinstance(value, Mapping):
        return line
    entries = ",\n".join(f"{2 * INDENT}{json.dumps(name)}: {_json(entry)}" for name, entry in value.items())
    return f"{INDENT}{json.dumps(key)}: {{\n{entries}\n{INDENT}}},\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _label_faults(labels: Any) -> Iterator[str]:
    if not isinstance(labels, Mapping) or list(labels) != [str(index) for index in range(len(labels))]:
        yield f'labels {labels!r} must map "0", "1", ... in order and without a gap to names: renumber the classes'
    elif not 2 <= len(labels) <= 256:
        yield f"labels {labels!r} has {len(labels)} classes: give the background and 1 to 255 others"
    else:
        for name in labels.values():
            yield from _name_faults("labels", name)
        names = list(labels.values())
        if twice := sorted({str(name) for name in names if names.count(name) > 1}):
            yield f"labels {labels!r} gives the name {twice[0]!r} twice: name each class once"


def _name_faults(key: str, name: Any) -> Iterator[str]:
    if not isinstance(name, str) or not name.strip() or name.startswith(SPECIAL) or "#" in name or "::" in name:
        yield (
            f'{key} has the name {name!r}: take a text without "#" and "::" that begins with none of '
            f"{' '.join(SPECIAL)}, which mean something else to MONAI's configuration"
        )


def _class_faults(block: DatasetBlock) -> Iterator[str]:
    for key in ("label_values", "regions"):
        if not isinstance(value := getattr(block, key), Mapping | None):
            yield f"{key} {value!r} must be an object, or null"
            return
    classes = f"0 to {block.num_classes - 1}"
    for value, target in (block.label_values or {}).items():
        if not value.isdecimal():
            yield f'label_values names the value {value!r}: a whole number as text, such as "4"'
        if not _is_class(target, block):
            yield f"label_values maps {value!r} to class {target!r}: take one of {classes}, or add it to labels"
    if block.regions is not None and not block.regions:
        yield "regions {} is empty: name a region, or write null to report the classes"
    for name, members in (block.regions or {}).items():
        yield from _name_faults("regions", name)
        if not members or len(set(members)) < len(members) or not all(_is_class(c, block) and c > 0 for c in members):
            yield f"regions {name!r} is {members!r}: list foreground classes, 1 to {block.num_classes - 1}, each once"
    if (weights := block.class_weights) is not None:
        if len(weights) != block.num_classes:
            yield (
                f"class_weights {weights} has {len(weights)} numbers for {block.num_classes} classes: "
                "give one per class, background first"
            )
        if not all(_is_number(weight) and weight >= 0 for weight in weights) or not any(weights):
            yield f"class_weights {weights} must be numbers from 0 on, not all of them 0"


def _image_faults(block: DatasetBlock) -> Iterator[str]:
    if not _is_whole(block.in_channels) or block.in_channels < 1:
        yield f"in_channels {block.in_channels!r} must be a whole number from 1 on"
    if block.modalities is not None and len(block.modalities) != block.in_channels:
        yield (
            f"modalities {block.modalities} names {len(block.modalities)} but in_channels is {block.in_channels}: "
            "name one per channel, or null"
        )
    for name in block.modalities or ():
        yield from _name_faults("modalities", name)
    if block.spacing is not None and (
        len(block.spacing) != 3 or not all(_is_number(size) and size > 0 for size in block.spacing)
    ):
        yield f"spacing {block.spacing} must be three sizes in mm above 0, or null"
    sizes = block.roi_size
    if len(sizes) != 3 or not all(_is_whole(size) and size > 0 and size % STRIDE == 0 for size in sizes):
        nearest = [max(STRIDE, round(size / STRIDE) * STRIDE) for size in sizes if _is_number(size)]
        yield f"roi_size {sizes} must be three sizes divisible by {STRIDE}: try {nearest}"
    elif max(sizes) == STRIDE:
        yield f"roi_size {sizes} leaves one voxel at the bottom of the network: take at least {2 * STRIDE} on one axis"
    try:
        intensity_transforms("image", block.intensity)
    except ValueError as error:
        yield str(error)


def _count_faults(block: DatasetBlock) -> Iterator[str]:
    try:
        axis_groups("flip_axes", block.flip_axes)
    except ValueError as error:
        yield str(error)
    if not _is_number(block.balanced_crops) or not 0 <= block.balanced_crops <= 1:
        yield f"balanced_crops {block.balanced_crops!r} must be a share in [0, 1]"
    if not isinstance(block.largest_component, bool):
        yield f"largest_component {block.largest_component!r} must be true or false"
    if block.fusion not in get_args(FusionKind):
        yield f"fusion {block.fusion!r} must be one of {list(get_args(FusionKind))}"
    if block.labeled_count is not None and (not _is_whole(block.labeled_count) or block.labeled_count < 1):
        yield f"labeled_count {block.labeled_count!r} must be a whole number from 1 on, or null for all"
    if not _is_whole(block.validation_count) or block.validation_count < 0:
        yield f"validation_count {block.validation_count!r} must be a whole number from 0 on"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_class(value: Any, block: DatasetBlock) -> bool:
    return _is_whole(value) and 0 <= value < block.num_classes
