"""Labels are looked at before MONAI Label stores one or replaces another by it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.transforms import LoadImage
from numpy.typing import NDArray

from aps_components.label_server.parameters import RefusedRequestError
from aps_components.terminal import shown

NIFTI = (".nii", ".nii.gz")
OTHERS = (".nrrd",)
FAR = 0.25  # of the smallest voxel: how far a corner of the label may lie from the scan's


def check_label(label: str | os.PathLike[str], image: str | os.PathLike[str], *, values: Collection[int]) -> None:
    """Refuse a label that is none of this scan.

    Args:
        label: its file.
        image: the scan's.
        values: that a voxel may have, background (0) included.

    Raises:
        RefusedRequestError: it cannot be read, lies on another grid, or has other values.
    """
    name = shown(Path(label).name)
    voxels, affine = _read(label, what=f"the label {name}")
    shape, place = _grid(image)
    if voxels.shape != shape:
        raise RefusedRequestError(
            f"the label has {voxels.shape} voxels, its scan {shape}: save it on the scan's own grid"
        )
    distance = _farthest_corner(affine, place, shape)
    if not distance <= FAR * float(np.linalg.norm(place[:3, :3], axis=0).min()):
        raise RefusedRequestError(
            f"the label lies {distance:.2f} mm off its scan: save it on the scan's own grid (with it as reference)"
        )
    found = np.unique(voxels)
    if not np.isfinite(found).all() or not np.array_equal(found, np.rint(found)):
        raise RefusedRequestError("the label has values that are no whole numbers: save it as a label map")
    if unknown := sorted({int(value) for value in found} - set(values)):
        raise RefusedRequestError(
            f"the label has the values {unknown[:8]}, which no model here knows; there are {sorted(values)[:40]}"
        )


def _read(file: str | os.PathLike[str], *, what: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Voxels [x, y, z] and affine, RAS+."""
    try:
        if str(file).endswith(NIFTI):
            volume = nib.load(file)
            values = np.asanyarray(volume.dataobj)
            return values[..., 0] if values.ndim == 4 and values.shape[3] == 1 else values, volume.affine
        if str(file).endswith(OTHERS):
            loaded = LoadImage(image_only=True)(file)
            return np.asarray(loaded), np.asarray(loaded.affine, dtype=float)
    except Exception as error:  # a damaged file makes its readers raise almost anything
        raise RefusedRequestError(f"{what} cannot be read ({type(error).__name__}); send it again") from error
    raise RefusedRequestError(f"{what} is none of {', '.join((*NIFTI, *OTHERS))}: save it as one of these")


def _grid(image: str | os.PathLike[str]) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    if str(image).endswith(NIFTI):
        header = nib.load(image)
        return tuple(header.shape[:3]), header.affine
    voxels, affine = _read(image, what=f"the scan {shown(Path(image).name)}")
    return voxels.shape[:3], affine


def _farthest_corner(one: NDArray[np.float64], other: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """Largest distance of two grids' corners of the same number, in mm."""
    corners = np.array([[*corner, 1.0] for corner in itertools.product(*((0, size - 1) for size in shape))])
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())
