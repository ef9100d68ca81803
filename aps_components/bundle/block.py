"""The dataset block: the only lines in which one bundle's configuration differs from another's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from aps_components.configuration import DATASET_OPTIONS, contradictions
from aps_components.models.build import BackboneKind
from aps_components.networks.feature_fusion import FusionKind
from aps_components.networks.voxel_shape import Triple, checked_strides, levels_of, total_stride
from aps_components.options import Pieces
from aps_components.plain_json import read_object

LINE_LENGTH = 120
INDENT = " " * 4
# What inference and evaluation take from a model's settings, and from the block where those do not say it.
INFERENCE_KEYS = (
    "labels",
    "in_channels",
    "modalities",
    "spacing",
    "roi_size",
    "backbone",
    "strides",
    "kernel_sizes",
    "intensity",
    "largest_component",
    "fusion",
)
KNOWN_OF_EVERY_MODEL = (
    "spacing",
    "roi_size",
    "intensity",
    "fusion",
)  # to be evaluated: figures are not to be guessed at
EVALUATION_KEYS = ("label_values", "ignore", "regions", *INFERENCE_KEYS, "labeled_count", "validation_count")


@dataclass(frozen=True, kw_only=True)
class DatasetBlock:
    """What a bundle says about its dataset, as in ``train.json``; the defaults are those for a new dataset.

    Args:
        labels: class value, as text, to class name; "0" is the background.
        label_values: value in the label files, as text, to class; values that are not named keep their number.
        ignore: value in the label files of a voxel that nobody labelled; None if there is none.
        regions: name to classes: unions that are reported instead of the classes.
        in_channels: channels of an image.
        modalities: which files of a case, in channel order; None takes a case's image as it is.
        spacing: voxel size in mm; None keeps each scan's own.
        roi_size: patch and window; each size divisible by the product of the strides along it.
        backbone: the network that Model A is; see ``models.build_auto_prompt_seg``.
        strides: of its levels; None halves every axis four times.
        kernel_sizes: of its levels; None for 3 everywhere.
        intensity: see ``data.intensity_transforms``.
        augmentation: which of the random transforms in ``train.json`` are on.
        flip_axes: that patches are flipped along; those in a list of their own together.
        swelling: share of the labelled patches in which a class swells or shrinks, see ``data.RandSwelld``.
        balanced_crops: share of the labelled patches centred on a voxel of a foreground class, drawn evenly.
        class_weights: of the cross entropy, one per class; None for equal ones.
        largest_component: which pieces of an answer stay, see ``label_map.kept_pieces``.
        fusion: of Model A's features with Model B's; see ``models.build_auto_prompt_seg``. Weights fit one kind alone.
        labeled_count: training cases that keep their label; None for all.
        validation_count: training cases that validate if the datalist names none.

    Raises:
        ValueError: values that do not fit: each by name, and how to mend it.
    """

    labels: dict[str, str]
    label_values: dict[str, int] | None = None
    ignore: int | None = None
    regions: dict[str, list[int]] | None = None
    in_channels: int = 1
    modalities: list[str] | None = None
    spacing: list[float] | None = None
    roi_size: list[int] = field(default_factory=lambda: [96, 96, 96])
    backbone: BackboneKind = "vnet"
    strides: list[list[int]] | None = None
    kernel_sizes: list[list[int]] | None = None
    intensity: str | dict[str, list[float]] | None = "zscore"
    augmentation: str = "full"
    flip_axes: list[int | list[int]] = field(default_factory=lambda: [0, 1, 2])
    swelling: float = 0.0
    balanced_crops: float = 0.33
    class_weights: list[float] | None = None
    largest_component: Pieces = True
    fusion: FusionKind = "cafa"
    labeled_count: int | None = None
    validation_count: int = 0

    def __post_init__(self) -> None:
        if faults := list(_faults(self)):
            raise ValueError("\n".join(faults))

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.labels)

    @property
    def stride(self) -> Triple:
        """What divides the sizes of a patch, along each axis."""
        return total_stride(checked_strides(self.strides, exactly=levels_of(self.backbone)))

    @classmethod
    def read(cls, train_json: str | os.PathLike[str]) -> DatasetBlock:
        """The block of a bundle's ``configs/train.json``.

        Raises:
            ValueError: it is not JSON, lacks a key or holds a value that does not fit; names the file.
        """
        path = Path(train_json)
        try:
            content = {"ignore": None, "swelling": 0.0, **read_object(path)}  # bundles of before have neither
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
        return self._asking_the_checkpoint(INFERENCE_KEYS, with_default=INFERENCE_KEYS)

    def evaluation_text(self) -> str:
        """The lines of ``evaluate.json``, likewise; which scans had labels, and which validate, among them."""
        return self._asking_the_checkpoint(
            EVALUATION_KEYS, with_default=[key for key in EVALUATION_KEYS if key not in KNOWN_OF_EVERY_MODEL]
        )

    def _asking_the_checkpoint(self, keys: Sequence[str], *, with_default: Sequence[str]) -> str:
        defaults = {name: f", {getattr(self, name)!r}" if name in with_default else "" for name in keys}
        lines = {name: f"$trained_setting(@checkpoint, {name!r}{default})" for name, default in defaults.items()}
        if "labeled_count" in lines:
            lines["labeled_count"] = "$trained_count(@checkpoint, None)"
        return "".join(_line(name, line) for name, line in lines.items())


def _line(key: str, value: Any) -> str:
    """One entry on one line; an object that is too long for one, such as many labels, on one for each of its own."""
    line = f"{INDENT}{json.dumps(key)}: {_json(value)},\n"
    if len(line) <= LINE_LENGTH or not isinstance(value, Mapping):
        return line
    entries = ",\n".join(f"{2 * INDENT}{json.dumps(name)}: {_json(entry)}" for name, entry in value.items())
    return f"{INDENT}{json.dumps(key)}: {{\n{entries}\n{INDENT}}},\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _faults(block: DatasetBlock) -> Iterator[str]:
    """Of every value by itself, then of all together; what the classes are comes first, since the others count them."""
    values, wrong = {}, []
    for entry in fields(block):
        try:
            value = getattr(block, entry.name)
            values[entry.name] = DATASET_OPTIONS[entry.name](entry.name, value)
            if isinstance(value, str) and not isinstance(values[entry.name], str):
                raise ValueError(f"{entry.name} {value!r} is a text: write {_json(values[entry.name])}")
        except ValueError as error:
            wrong.append(str(error))
            if entry.name == "labels":
                break
    yield from wrong
    if "labels" in values:
        yield from contradictions(values)
