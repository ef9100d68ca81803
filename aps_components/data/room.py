"""Whether a scan fits into memory, told by its header, before a voxel of it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from monai.data import MetaTensor

from aps_components.data.datalist import files_of
from aps_components.data.errors import DataError
from aps_components.data.nifti import read_geometry
from aps_components.memory import NotEnoughMemoryError, require_memory

FLOAT = 4  # bytes
LOADED = 3  # float32 volumes for each channel while a scan is loaded: as read, as float32, turned
# Of the scan's size in inference: probabilities of each class, and these more, are brought back to its own grid.
BESIDE_CLASSES = 6
ON_ITS_GRID = 2  # of the network's grid, for each class: sums and weighted ones of the windows
MEND = "crop or resample the scan, or take a machine with more memory"


def refuse_unloadable(entries: Mapping[str, Any]) -> None:
    """Of an item's files, which are read together.

    Raises:
        DataError: they do not fit, and how much they would need; or one cannot be read.
    """
    files = [file for entry in entries.values() for file in files_of(entry)]
    geometries = [read_geometry(file) for file in files]
    voxels = sum(math.prod(geometry.shape) * geometry.channels for geometry in geometries)
    _require(FLOAT * LOADED * voxels, files[0])


def refuse_large_grid(volumes: Mapping[Any, Any], spacing: Sequence[float]) -> None:
    """Of volumes [C, D, H, W] that are to be resampled to a spacing in mm; errors as of `refuse_unloadable`."""
    for volume in volumes.values():
        if isinstance(volume, MetaTensor):
            size = np.asarray(volume.shape[1:], dtype=float) * volume.pixdim.numpy() / np.asarray(spacing, dtype=float)
            name = str(volume.meta.get("filename_or_obj", "a scan"))
            _require(FLOAT * LOADED * volume.shape[0] * float(np.prod(np.maximum(size, 1))), name)


def refuse_large_segmentation(files: Sequence[str], *, spacing: Sequence[float] | None, classes: int) -> None:
    """Of a scan that is to be segmented: what both grids take; errors as of `refuse_unloadable`.

    Args:
        files: of the scan.
        spacing: of the network's grid, mm; None for the scan's own.
        classes: background included.
    """
    try:
        geometry = read_geometry(files[0])
    except DataError:  # what is wrong with it is said by whoever reads it
        return
    shape, sizes = np.asarray(geometry.shape, dtype=float), np.asarray(geometry.spacing)
    own = float(np.prod(shape))
    of_network = own if spacing is None else float(np.prod(np.maximum(shape * sizes / np.asarray(spacing), 1)))
    volumes = own * (classes + BESIDE_CLASSES) + of_network * classes * ON_ITS_GRID
    _require(FLOAT * volumes, files[0])


def _require(wanted: float, file: str) -> None:
    try:
        require_memory(wanted, what=str(file), mend=MEND)
    except NotEnoughMemoryError as error:
        raise DataError(str(error)) from None
