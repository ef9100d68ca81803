"""Faults of the scans themselves, found before training starts.

A fault is one line: the file, what is wrong with it, how to mend it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import nibabel as nib
import numpy as np
from tqdm import tqdm

from aps_components.data.datalist import files_of
from aps_components.data.errors import DataError
from aps_components.data.label_values import LabelValues, map_values, parsed_label_values

GRID_TOLERANCE = 1e-3  # mm, in every entry of the affine
INTEGER_TOLERANCE = 1e-3  # labels stored with a slope come back as 0.99999
LINES_SHOWN = 10
CASES_WITHOUT_BAR = 20

Items = TypeVar("Items", bound=Sequence[Mapping[str, Any]])


class Grid(NamedTuple):
    """Where a scan's voxels lie; `channels` is 1 for a 3-D file."""

    file: str
    shape: tuple[int, ...]
    channels: int
    affine: np.ndarray


def check_cases(
    items: Items,
    *,
    in_channels: int = 1,
    num_classes: int | None = None,
    label_values: LabelValues = None,
    progress: bool = True,
) -> Items:
    """Check every case and report all faults at once; returns `items` unchanged.

    Args:
        items: dicts with "image" (a file or a list of them) and, where there is one, "label".
        in_channels: the channels each image must have.
        num_classes: if given, every label is also read in full and its values checked; otherwise only
            headers are read.
        label_values: value in the label files to class, see `LoadVolumed`.
        progress: show a bar when there are more than a few cases.
    """
    mapping = parsed_label_values(label_values, num_classes=num_classes)
    bar = tqdm(items, desc="Checking scans", disable=not progress or len(items) <= CASES_WITHOUT_BAR)
    faults = [fault for item in bar for fault in _case_faults(item, in_channels, num_classes, mapping)]
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
            files = [_grid(file) for file in files_of(entry)]
        except DataError as error:
            yield str(error)
            continue
        channels, wanted = sum(grid.channels for grid in files), 1 if key == label_key else in_channels
        if channels != wanted:
            yield f"{files[0].file}: {channels} channel(s) where {wanted} are wanted; {_channel_mend(key == label_key)}"
        grids += files
    for grid in grids[1:]:
        yield from _grid_faults(grids[0], grid)


def label_faults(
    file: str, values: np.ndarray, num_classes: int, label_values: Mapping[int, int] | None = None
) -> Iterator[str]:
    """What is wrong with a label's values, those of the file, which `label_values` maps to classes."""
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
    if values.size and (classes.min() < 0 or classes.max() >= num_classes):
        outside = integers[(classes < 0) | (classes >= num_classes)]
        yield (
            f"{file}: label values {_some(outside)} are outside the classes 0 to {num_classes - 1}; "
            "name these classes in labels, say by label_values which class each one is, or renumber the label"
        )


def unreadable(file: str, error: Exception) -> str:
    """The fault of a file whose voxels cannot be read."""
    return (
        f"{file}: cannot be read as NIfTI ({type(error).__name__}: {str(error).strip()[:200]}); "
        "it looks truncated or is another format: copy, download or convert it again"
    )


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
        values = np.asanyarray(nib.load(file).dataobj)
    except Exception as error:
        yield unreadable(file, error)
    else:
        yield from label_faults(file, values, num_classes, label_values)


def _grid(file: str) -> Grid:
    """Read one file's header."""
    if not Path(file).is_file():
        raise DataError(f"{file}: no such file; put the scan there or mend its path in the datalist")
    try:
        scan = nib.load(file)
        shape, affine = scan.shape, np.asarray(scan.affine, dtype=float)
    except Exception as error:
        raise DataError(unreadable(file, error)) from error
    if len(shape) not in (3, 4):
        raise DataError(
            f"{file}: a {len(shape)}-D image of shape {shape}; a 3-D scan is wanted, or a 4-D file whose "
            "last axis is the channels: stack the slices into one volume"
        )
    if min(shape) < 1:
        raise DataError(f"{file}: empty, its shape is {shape}; export the scan again")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataError(f"{file}: its affine {affine[:3].tolist()} has no inverse; set the voxel sizes in the header")
    return Grid(file, shape[:3], shape[3] if len(shape) == 4 else 1, affine)


def _grid_faults(first: Grid, other: Grid) -> Iterator[str]:
    mend = "check that the two belong together, or resample one onto the other's grid"
    if first.shape != other.shape:
        yield f"{other.file}: shape {other.shape} but {first.file} has {first.shape}; {mend}"
    elif (distance := np.abs(first.affine - other.affine).max()) > GRID_TOLERANCE:
        yield f"{other.file}: its affine differs from that of {first.file} by up to {distance:.4g} mm; {mend}"


def _channel_mend(is_label: bool) -> str:
    if is_label:
        return "a label is one 3-D volume of class numbers"
    return "set in_channels, or give one file per modality or one 4-D file with the channels last"


def _some(values: np.ndarray) -> str:
    distinct = np.unique(values)
    return ", ".join(f"{value:g}" for value in distinct[:5]) + (", ..." if len(distinct) > 5 else "")
