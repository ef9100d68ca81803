"""The voxel size that scans agree on: a model answers in it, whatever a later scan has."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from aps_components.data.datalist import Item, files_of
from aps_components.data.errors import DataError
from aps_components.data.nifti import read_geometry

SAME_SPACING = 1.01  # of one voxel size over another, up to which they are the same


def agreed_voxel_size(items: Iterable[Item]) -> list[float] | None:
    """The median voxel size of scans that agree to 1 % on every axis, mm along x, y, z; None where they do not.

    Args:
        items: with ``image``, a file or a list of them. One that cannot be read says nothing.
    """
    sizes = np.array([size for item in items if (size := _voxel_size(item)) is not None])
    if not len(sizes) or (sizes.max(axis=0) > SAME_SPACING * sizes.min(axis=0)).any():
        return None
    return [float(f"{size:.6g}") for size in np.median(sizes, axis=0)]


def _voxel_size(item: Item) -> tuple[float, float, float] | None:
    try:
        return read_geometry(files_of(item["image"])[0]).ras_spacing
    except DataError:
        return None
