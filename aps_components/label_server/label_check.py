"""Labels are looked at before MONAI Label stores one or replaces another by it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import LoadImage
from numpy.typing import NDArray

from aps_components.data import DataError
from aps_components.data.nifti import read_geometry, read_scan
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
    what = called(label)
    shape, place = _grid(image, what=f"the scan {shown(Path(image).name)}")
    shape = shape[:3]  # of a scan with its channels in one file
    own, affine = _grid(label, what=what)  # before its voxels: a few packed bytes can declare gigabytes
    if own != shape:
        raise RefusedRequestError(f"the label has {own} voxels, its scan {shape}: save it on the scan's grid")
    distance = _farthest_corner(affine, place, shape)
    if not distance <= FAR * float(np.linalg.norm(place[:3, :3], axis=0).min()):
        raise RefusedRequestError(
            f"the label lies {distance:.2f} mm off its scan: save it on the scan's own grid (with it as reference)"
        )
    found = np.unique(label_voxels(label))
    if not np.isfinite(found).all() or not np.array_equal(found, np.rint(found)):
        raise RefusedRequestError("the label has values that are no whole numbers: save it as a label map")
    if unknown := sorted({int(value) for value in found} - set(values)):
        raise RefusedRequestError(
            f"the label has the values {unknown[:8]}, which no model here knows; there are {sorted(values)[:40]}"
        )


def _grid(file: str | os.PathLike[str], *, what: str) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Size, without a last axis of 1, and affine, RAS+."""
    with _readable(file, what):
        if str(file).endswith(NIFTI):
            geometry = read_geometry(file)
            shape = geometry.shape if geometry.channels == 1 else (*geometry.shape, geometry.channels)
            return shape, geometry.affine
        loaded = LoadImage(image_only=True)(file)
        return tuple(loaded.shape), np.asarray(loaded.affine, dtype=float)
    raise AssertionError


def label_voxels(label: str | os.PathLike[str]) -> NDArray[Any]:
    """The voxels of a label, [X, Y, Z]; whatever is wrong with the file is refused."""
    with _readable(label, called(label)):
        voxels = read_scan(label).voxels if str(label).endswith(NIFTI) else LoadImage(image_only=True)(label)
        return np.asarray(voxels)
    raise AssertionError


def label_affine(label: str | os.PathLike[str]) -> NDArray[np.float64]:
    """Of a label's grid, [4, 4], voxel to mm, RAS+."""
    return _grid(label, what=called(label))[1]


def called(label: str | os.PathLike[str]) -> str:
    """A label's file in messages."""
    return f"the label {shown(Path(label).name)}"


@contextmanager
def _readable(file: str | os.PathLike[str], what: str) -> Iterator[None]:
    if not str(file).endswith((*NIFTI, *OTHERS)):
        raise RefusedRequestError(f"{what} is none of {', '.join((*NIFTI, *OTHERS))}: save it as one of these")
    try:
        yield
    except DataError as error:
        said = str(error).removeprefix(f"{os.fspath(file)}: ")
        raise RefusedRequestError(f"{what}: {said}") from error
    except Exception as error:  # a damaged file makes its readers raise almost anything
        raise RefusedRequestError(f"{what} cannot be read ({type(error).__name__}); send it again") from error


def _farthest_corner(one: NDArray[np.float64], other: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """Largest distance of two grids' corners of the same number, in mm."""
    corners = np.array([[*corner, 1.0] for corner in itertools.product(*((0, size - 1) for size in shape))])
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())
