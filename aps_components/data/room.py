"""Whether a scan fits into memory, told by its header, before a voxel of it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from aps_components.data.datalist import files_of
from aps_components.data.errors import DataError
from aps_components.data.geometry import Geometry
from aps_components.data.nifti import read_geometry
from aps_components.memory import NotEnoughMemoryError, require_memory

FLOAT = 4  # bytes
LOADED = 3  # float32 volumes for each channel while a scan is loaded: as read, as float32, turned
# Bytes a voxel of a scan after the network: its brightness, label map, that turned, a mask, components of a class.
AFTER = 4 + 1 + 1 + 1 + 4
# Bytes a voxel of a window while the networks have it, in fp32 on a CPU, with 16 channels at full resolution; measured.
WINDOW = 700
TILES = 2**30  # bytes of a volume's maps in memory; the others are in a file
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


def segmentation_room(
    *, spacing: Sequence[float] | None, classes: int, roi_size: Sequence[int], sw_batch_size: int, device: Any
) -> dict[str, Any]:
    """What the memory of a segmentation depends on beside the scan: arguments of `refuse_large_segmentation`.

    Args:
        spacing: of the network's grid, mm; None for the scan's own.
        classes: background included.
        roi_size: of a window, voxels.
        sw_batch_size: windows at once.
        device: of the networks; a GPU has a memory of its own for them.
    """
    on_gpu = torch.device(device).type == "cuda"
    return {"spacing": spacing, "classes": classes, "window": 0 if on_gpu else sw_batch_size * math.prod(roi_size)}


def refuse_large_segmentation(
    files: Sequence[str], *, spacing: Sequence[float] | None, classes: int, window: int = 0, times: float = 1.0
) -> None:
    """Of a scan that is to be segmented; errors as of `refuse_unloadable`.

    Args:
        files: of the scan.
        spacing: of the network's grid, mm; None for the scan's own.
        classes: background included.
        window: voxels that the networks see at once in this memory; 0 where they have a GPU's.
        times: such scans at once; the networks see one of them.
    """
    try:
        geometry = read_geometry(files[0])
        channels = sum(read_geometry(file).channels for file in files)
    except DataError:  # what is wrong with it is said by whoever reads it
        return
    whole = geometry._replace(channels=channels)
    refuse_large_volume(whole, name=files[0], spacing=spacing, classes=classes, window=window, times=times)


def refuse_large_volume(
    geometry: Geometry,
    *,
    name: str,
    spacing: Sequence[float] | None,
    classes: int,
    window: int = 0,
    times: float = 1.0,
) -> None:
    """The same of a scan by its geometry; the other arguments and errors are those of `refuse_large_segmentation`."""
    channels = geometry.channels
    shape, sizes = np.asarray(geometry.shape, dtype=float), np.asarray(geometry.spacing)
    own = float(np.prod(shape))
    of_network = own if spacing is None else float(np.prod(np.maximum(shape * sizes / np.asarray(spacing), 1)))
    reading = FLOAT * LOADED * channels * own
    network = FLOAT * channels * of_network + min(FLOAT * (classes + 1) * of_network, TILES) + own
    stage = max(reading, network, AFTER * own)
    _require((times - 1) * stage + max(reading, network + WINDOW * window, AFTER * own), name)


def _require(wanted: float, file: str) -> None:
    try:
        require_memory(wanted, what=str(file), mend=MEND)
    except NotEnoughMemoryError as error:
        raise DataError(str(error)) from None
