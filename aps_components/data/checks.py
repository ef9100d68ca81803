"""Faults of the scans themselves, found before training starts.

A fault is one line: the file, what is wrong with it, how to mend it.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from aps_components.data.datalist import files_of
from aps_components.data.errors import DataError
from aps_components.data.geometry import Geometry
from aps_components.data.label_values import LabelValues, ignore_faults, map_values, parsed_label_values
from aps_components.data.nifti import File, read_geometry, read_scan
from aps_components.data.partial import NOT_LABELED, Partial, said_of
from aps_components.data.remembered import Remembered, facts

GRID_TOLERANCE = 1e-3  # mm, in every entry of the affine
VALUES = NOT_LABELED + 1  # that a label map can hold
INTEGER_TOLERANCE = 1e-3  # labels stored with a slope come back as 0.99999
LINES_SHOWN = 10
CASES_WITHOUT_BAR = 20
READERS = 8  # threads, which wait for disks
RULES = 2  # another number where more is checked than before: what was found right is then looked at again

Items = TypeVar("Items", bound=Sequence[Mapping[str, Any]])


class Grid(NamedTuple):
    """Where the voxels of a file lie."""

    file: str
    geometry: Geometry


def check_cases(
    items: Items,
    *,
    in_channels: int = 1,
    num_classes: int | None = None,
    label_values: LabelValues = None,
    progress: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Items:
    """Check every case and report all faults at once; returns `items` unchanged.

    Args:
        items: dicts with "image" (a file or a list of them) and, where there is one, "label", and what is said of it.
        in_channels: the channels each image must have.
        num_classes: if given, every label is also read in full and its values checked; otherwise only
            headers are read.
        label_values: value in the label files to class, see `LoadVolumed`.
        progress: show a bar when there are more than a few cases.
        cache_dir: where is kept which files were found to be right, so that they are not read again.
    """
    mapping = parsed_label_values(label_values, num_classes=num_classes)
    remembered = Remembered(cache_dir)

    def faults_of(item: Mapping[str, Any]) -> list[str]:
        key = f"right {RULES} {json.dumps([in_channels, num_classes, sorted(mapping.items())])} {_facts_of(item)}"
        if key in remembered:
            return []
        found = list(_case_faults(item, in_channels, num_classes, mapping))
        if not found and cache_dir is not None:
            remembered.keep(key, "")
        return found

    with ThreadPoolExecutor(READERS) as pool:
        shown = progress and len(items) > CASES_WITHOUT_BAR
        each = tqdm(pool.map(faults_of, items), total=len(items), desc="Checking scans", disable=not shown)
        faults = [fault for found in each for fault in found]
    if faults:
        more = len(faults) - LINES_SHOWN
        lines = faults[:LINES_SHOWN] + ([f"... and {more} more"] if more > 0 else [])
        raise DataError("\n".join([f"{len(faults)} fault(s) in {len(items)} cases:", *lines]))
    return items


def header_faults(item: Mapping[str, Any], *, in_channels: int, label_key: str = "label") -> Iterator[str]:
    """What the headers of one case's files say is wrong; every key but `label_key` is an image."""
    grids: list[Grid] = []
    for key, entry in item.items():
        try:
            files = [Grid(file, read_geometry(file)) for file in files_of(entry)]
        except DataError as error:
            yield str(error)
            continue
        channels, wanted = sum(grid.geometry.channels for grid in files), 1 if key == label_key else in_channels
        if channels != wanted:
            yield f"{files[0].file}: {channels} channel(s) where {wanted} are wanted; {_channel_mend(key == label_key)}"
        grids += files
    for grid in grids[1:]:
        yield from _grid_faults(grids[0], grid)


def label_faults(
    file: str,
    values: np.ndarray,
    num_classes: int | None,
    label_values: Mapping[int, int] | None = None,
    partial: Partial | None = None,
) -> Iterator[str]:
    """What is wrong with a label's values, [X, Y, Z] or with one channel before it.

    Args:
        file: where they stand.
        values: those of the file.
        num_classes: background included; None where nobody said yet which values are classes.
        label_values: value to class.
        partial: what was labelled; None for all of it.
    """
    partial = partial or Partial()
    if faults := list(_ignore_faults(partial, num_classes, label_values)):
        yield from (f"{file}: {fault}" for fault in faults)
        return
    integers = np.rint(values) if values.dtype.kind == "f" else values
    with np.errstate(invalid="ignore"):
        broken = ~(np.abs(values - integers) <= INTEGER_TOLERANCE)  # true for NaN as well
    if broken.any():
        yield (
            f"{file}: label values {_some(values[broken])} are not whole numbers; "
            "store class numbers, and resample labels by nearest neighbour"
        )
        return
    classes = map_values(integers, label_values or {})
    wrong = classes < 0 if num_classes is None else (classes < 0) | (classes >= num_classes)
    if partial.ignore is not None:
        wrong &= integers != partial.ignore
    if wrong.any():
        known = "0, 1, ..." if num_classes is None else f"0 to {num_classes - 1}"
        yield (
            f"{file}: label values {_some(integers[wrong])} are outside the classes {known}; "
            "name these classes in labels, say by label_values which class each one is, by ignore which one means that "
            "nobody labelled a voxel, or renumber the label"
        )
        return
    yield from _partial_faults(file, integers, classes, partial)


def _ignore_faults(partial: Partial, num_classes: int | None, label_values: Mapping[int, int] | None) -> Iterator[str]:
    if partial.ignore is not None and num_classes is not None:
        undrawn = partial.undrawn(num_classes)
        yield from ignore_faults(partial.ignore, num_classes=num_classes, label_values=label_values, undrawn=undrawn)


def _partial_faults(file: str, values: np.ndarray, classes: np.ndarray, partial: Partial) -> Iterator[str]:
    if partial.is_whole:
        return
    if faults := list(partial.faults(file, values.shape[-3:])):
        yield from faults
        return
    labeled = ~partial.unlabeled(values, classes)
    if not labeled.any():
        yield f"{file}: no voxel of it is labelled; label some, or leave the label out of the datalist"
    elif partial.classes is not None and (held := labeled & ~np.isin(classes, (0, *partial.classes))).any():
        yield (
            f"{file}: holds class {_some(classes[held])}, which its labeled_classes leave out; name it there, or take "
            "it out of the label"
        )


def require_one_grid(files: Sequence[File]) -> None:
    """Refuse files that are of one scan by name, and lie elsewhere than the first.

    Raises:
        DataError: one cannot be read, or lies on another grid; which, and the mend.
    """
    grids = [Grid(os.fspath(file), read_geometry(file)) for file in files]
    for grid in grids[1:]:
        for fault in _grid_faults(grids[0], grid):
            raise DataError(fault)


def read_labels(file: File) -> NDArray[np.uint8]:
    """The class numbers of a label file, [X, Y, Z].

    Raises:
        DataError: it cannot be read, is no single volume, or holds others than whole numbers from 0 to 255.
    """
    scan = read_scan(file)
    if (channels := scan.geometry.channels) != 1:
        raise DataError(f"{os.fspath(file)}: {channels} channels; {_channel_mend(is_label=True)}")
    values = scan.voxels.reshape(scan.geometry.shape)
    for fault in label_faults(os.fspath(file), values, VALUES):
        raise DataError(fault)
    return np.rint(values).astype(np.uint8)


def _facts_of(item: Mapping[str, Any]) -> list[str]:
    """Of its files that are there."""
    files = [file for key in ("image", "label") if key in item for file in files_of(item[key])]
    return [*(facts(file) if os.path.isfile(file) else file for file in files), *filter(None, [said_of(item)])]


def _case_faults(
    item: Mapping[str, Any], in_channels: int, num_classes: int | None, label_values: Mapping[int, int]
) -> Iterator[str]:
    paths = {key: item[key] for key in ("image", "label") if key in item}
    faults = list(header_faults(paths, in_channels=in_channels))
    yield from faults
    if faults or num_classes is None or "label" not in item:
        return
    file = files_of(item["label"])[0]
    try:
        values = read_scan(file).voxels
    except DataError as error:
        yield str(error)
    else:
        yield from label_faults(file, values.reshape(values.shape[:3]), num_classes, label_values, Partial.of(item))


def _grid_faults(first: Grid, other: Grid) -> Iterator[str]:
    mend = "check that the two belong together, or resample one onto the other's grid"
    one, two = first.geometry, other.geometry
    if one.shape != two.shape:
        yield f"{other.file}: shape {two.shape} but {first.file} has {one.shape}; {mend}"
    elif (distance := np.abs(one.affine - two.affine).max()) > GRID_TOLERANCE:
        yield f"{other.file}: its affine differs from that of {first.file} by up to {distance:.4g} mm; {mend}"


def _channel_mend(is_label: bool) -> str:
    if is_label:
        return "a label is one 3-D volume of class numbers"
    return "set in_channels, or give one file per modality or one 4-D file with the channels last"


def _some(values: np.ndarray) -> str:
    distinct = np.unique(values)
    return ", ".join(f"{value:g}" for value in distinct[:5]) + (", ..." if len(distinct) > 5 else "")
