"""Labels that are not whole: some voxels, some slices or some classes of a scan alone were drawn.

What a datalist says of such a label (:data:`KEYS`) travels with its item. It is read here, once, when the label is
loaded: a voxel without a label gets the value :data:`NOT_LABELED`, and classes that nobody drew are a table. A voxel of
the background beside such classes is "background, or one of these".
"""

from __future__ import annotations

import json
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aps_components.data.errors import DataError
from aps_components.terminal import brief

NOT_LABELED = 255  # in a label map, which is held as uint8
MOST_CLASSES = NOT_LABELED  # that a label can have
IGNORE, SLICES, CLASSES = "ignore", "labeled_slices", "labeled_classes"
KEYS = (IGNORE, SLICES, CLASSES)  # of an item whose label is not whole
UNDRAWN = "undrawn"  # of a loaded item: a table of the classes that nobody drew
DRAWN = "drawn"  # the slices that hold something
AXIS, INDICES = "axis", "indices"
LAST_AXIS = 2
FEWEST_SLICES = 3  # that stand alone, of a label that looks drawn in slices

Voxels = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Partial:
    """What was labelled of a scan; by default all of it.

    Args:
        ignore: value in the label file of a voxel that nobody labelled.
        axis: of the file, across which slices were labelled.
        slices: their numbers along it, from 0 on; :data:`DRAWN` for those that hold a class other than the background;
            None for all.
        classes: the foreground classes that were drawn; None for all.
    """

    ignore: int | None = None
    axis: int = LAST_AXIS
    slices: tuple[int, ...] | str | None = None
    classes: tuple[int, ...] | None = None

    @classmethod
    def of(cls, item: Mapping[Any, Any]) -> Partial:
        """What an item of a datalist says."""
        slices = item.get(SLICES)
        axis = LAST_AXIS
        if isinstance(slices, Mapping):
            axis, slices = slices.get(AXIS, LAST_AXIS), slices[INDICES]
        return cls(
            ignore=item.get(IGNORE),
            axis=axis,
            slices=tuple(slices) if isinstance(slices, list | tuple) else slices,
            classes=None if item.get(CLASSES) is None else tuple(item[CLASSES]),
        )

    @property
    def is_whole(self) -> bool:
        """Whether every voxel has its class."""
        return self == Partial(axis=self.axis)

    def undrawn(self, num_classes: int) -> tuple[int, ...]:
        """The foreground classes that nobody drew."""
        return () if self.classes is None else tuple(sorted(set(range(1, num_classes)) - set(self.classes)))

    def unlabeled(self, values: Voxels, classes: Voxels) -> Mask:
        """Where nobody labelled, [X, Y, Z] or with one channel before it.

        Args:
            values: of the label file.
            classes: what they mean; of those to ignore, anything.
        """
        without = np.zeros(values.shape, dtype=bool) if self.ignore is None else np.rint(values) == self.ignore
        if self.slices is None:
            return without
        axis = values.ndim - 3 + self.axis
        others = tuple(other for other in range(values.ndim) if other != axis)
        if self.slices == DRAWN:
            empty = ~((classes != 0) & ~without).any(axis=others)
        else:
            empty = np.ones(values.shape[axis], dtype=bool)
            empty[np.array(self.slices, dtype=int)] = False
        return without | np.expand_dims(empty, others)

    def faults(self, file: str, shape: tuple[int, ...]) -> Iterator[str]:
        """What does not fit a label file of this shape [X, Y, Z]."""
        if isinstance(self.slices, tuple) and (outside := [n for n in self.slices if n >= shape[self.axis]]):
            yield (
                f"{file}: {SLICES} names {brief(outside)}, but it has {shape[self.axis]} slices "
                f"along axis {self.axis}, counted from 0; mend the datalist"
            )


def label_item(item: Mapping[str, Any]) -> dict[Hashable, Any]:
    """The label of an item and what is said of it, without its image."""
    return {key: item[key] for key in ("label", *KEYS) if key in item}


def is_partial(item: Mapping[str, Any]) -> bool:
    """Whether anything is said of a label that may leave voxels or classes out."""
    return any(item.get(key) is not None for key in KEYS)


def said_of(item: Mapping[str, Any]) -> str:
    """What is said of a label, as text; empty of a whole one."""
    said = {key: item[key] for key in KEYS if item.get(key) is not None}
    return json.dumps(said, sort_keys=True) if said else ""


def table_of(classes: Collection[int]) -> Tensor:
    """Bool, [256]: True at these classes."""
    table = torch.zeros(NOT_LABELED + 1, dtype=torch.bool)
    table[list(classes)] = True
    return table


def parsed(entry: Mapping[str, Any], *, labels: Mapping[int, str], where: str) -> dict[str, Any]:
    """Those of :data:`KEYS` that a datalist's entry has, checked, with classes by number.

    Args:
        entry: of one scan, or the datalist itself.
        labels: class to name.
        where: the entry, for messages.

    Raises:
        DataError: a value that does not fit.
    """
    checks = {IGNORE: _ignore, SLICES: _slices, CLASSES: _classes}
    found: dict[str, Any] = {}
    for key, check in checks.items():
        if entry.get(key) is not None:
            found[key] = check(entry[key], labels=labels, where=where)
    if len(found.get(CLASSES, ())) == len(labels) - 1:
        del found[CLASSES]  # all of them are drawn
    return found


def parsed_slices(value: str) -> str | dict[str, Any]:
    """As a datalist has it, of a command line's text: "drawn", or "drawn:0" for another axis of the file."""
    word, _, axis = str(value).partition(":")
    if word != DRAWN or (axis and axis not in ("0", "1", "2")):
        raise ValueError(
            f'{SLICES} {value!r} must be "{DRAWN}": slices along the files\' last axis that hold nothing were not '
            f'labelled; or "{DRAWN}:0", "{DRAWN}:1" for another axis'
        )
    return _drawn_along(int(axis) if axis else LAST_AXIS)


def drawn_slices(drawn: Mask) -> str | dict[str, Any]:
    """As a datalist has it: slices that hold something, of a label of which nobody says along which axis it was drawn.

    Along the last axis; or along the one other axis along which each of them stands alone, as slices drawn in another
    of a viewer's planes do. Along the last axis such a drawing has something in every slice, and is whole in none.

    Args:
        drawn: where a class was drawn, [X, Y, Z] or [X, Y, Z, 1].
    """
    alone = _alone_along(drawn)
    return _drawn_along(LAST_AXIS if alone is None else alone)


def sliced_axis(drawn: Mask) -> int | None:
    """The axis of a label, [X, Y, Z] or [X, Y, Z, 1], that looks as if only some slices had been drawn: three or more,
    all apart.

    Several small pieces stand alone along every axis; slices of a larger object along one. None for any other label.
    """
    axis = _alone_along(drawn)
    return None if axis is None or len(np.unique(drawn.nonzero()[axis])) < FEWEST_SLICES else axis


def _alone_along(drawn: Mask) -> int | None:
    """The one axis along which each slice that holds something stands alone."""
    alone = [axis for axis in range(3) if _stand_alone(drawn, axis)]
    return alone[0] if len(alone) == 1 else None


def _stand_alone(drawn: Mask, axis: int) -> bool:
    held: Mask = np.asarray(drawn.any(axis=tuple(other for other in range(drawn.ndim) if other != axis)))
    return not (held[1:] & held[:-1]).any()


def _drawn_along(axis: int) -> str | dict[str, Any]:
    return DRAWN if axis == LAST_AXIS else {AXIS: axis, INDICES: DRAWN}


def _ignore(value: Any, *, labels: Mapping[int, str], where: str) -> int:
    if type(value) is not int or value < 0:
        raise DataError(f"{where}: {IGNORE} is {brief(repr(value))}; it must be a whole number from 0 on, such as 255")
    return value


def _slices(value: Any, *, labels: Mapping[int, str], where: str) -> Any:
    axis, indices = (value.get(AXIS, LAST_AXIS), value.get(INDICES)) if isinstance(value, Mapping) else (2, value)
    numbers = isinstance(indices, list) and indices and all(type(n) is int and n >= 0 for n in indices)
    known = not isinstance(value, Mapping) or set(value) <= {AXIS, INDICES}
    if type(axis) is not int or axis not in (0, 1, 2) or not known or not (numbers or indices == DRAWN):
        raise DataError(
            f"{where}: {SLICES} is {brief(repr(value))}; it must be the numbers of the labelled slices, from 0 on, or "
            f'"{DRAWN}" for those that hold something, or {{"{AXIS}": 0, "{INDICES}": ...}} across another axis'
        )
    return value


def _classes(value: Any, *, labels: Mapping[int, str], where: str) -> list[int]:
    numbers = {name: index for index, name in labels.items()}
    listed = value if isinstance(value, list) else []
    classes = [numbers.get(entry, -1) if isinstance(entry, str) else entry for entry in listed]
    fit = all(type(index) is int and index in labels and index > 0 for index in classes)
    if not classes or not fit or len(set(classes)) < len(classes):
        raise DataError(
            f"{where}: {CLASSES} is {brief(repr(value))}; list the foreground classes that were drawn, each once, of "
            f"{brief(', '.join(f'{index} ({name})' for index, name in labels.items() if index))}"
        )
    return sorted(classes)
