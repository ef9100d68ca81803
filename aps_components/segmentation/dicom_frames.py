"""Where the frames of DICOM files lie, those of a series' slices and those of a multi-frame file alike."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps_components.data import DataError
from aps_components.errors import system_fault
from aps_components.segmentation.quiet import quiet

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
CROOKED, BETWEEN = 0.1, 0.25  # of a voxel, by which frames may turn from a grid that is theirs, and lie between it


@dataclass(frozen=True)
class Frames:
    """Frames of one size, of one direction and of one pixel spacing.

    Args:
        positions: of the first pixels' centres, [frames, 3], mm, LPS.
        axes: step along a row and step along a column, [2, 3], mm, LPS.
        size: columns, rows.
    """

    positions: NDArray[np.float64]
    axes: NDArray[np.float64]
    size: tuple[int, int]

    @property
    def heights(self) -> NDArray[np.float64]:
        """Along their normal, [frames], mm."""
        normal = np.cross(*self.axes)
        return np.asarray(self.positions @ (normal / np.linalg.norm(normal)))


def read_header(file: str) -> Any:
    """All of a file but its pixels.

    Raises:
        DataError: it cannot be read.
    """
    pydicom = importlib.import_module("pydicom")
    with quiet(complete=True):  # of values that a header may not have, in places not read here
        try:
            return pydicom.dcmread(file, stop_before_pixels=True, force=True)
        except Exception as error:  # a damaged header makes pydicom raise almost anything
            damaged = f"a damaged DICOM file ({type(error).__name__}); copy it again"
            raise DataError(f"{file}: {system_fault(error) or damaged}") from error


def frames_of(datasets: Sequence[Any]) -> Frames:
    """Of the slices of a series, or of one multi-frame file.

    Raises:
        DataError: they say nothing of their place, or they are of several sizes, spacings or directions.
    """
    try:
        found = [place for data in datasets for place in _places(data)]
        positions, directions, spacings = (np.array(part, dtype=np.float64) for part in zip(*found, strict=True))
        sizes = {(int(data.Columns), int(data.Rows)) for data in datasets}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"frames without position, orientation or pixel spacing ({error})") from error
    if len(sizes) > 1 or np.ptp(directions, axis=0).max() > 1e-3 or np.ptp(spacings, axis=0).max() > 1e-3:
        raise DataError("frames of several sizes, pixel spacings or directions")
    if not all(np.isfinite(part).all() for part in (positions, directions, spacings)):
        raise DataError("frames whose position, orientation or pixel spacing is no number")
    along_column, along_row = spacings[0]
    axes = directions[0].reshape(2, 3) * [[along_row], [along_column]]
    return Frames(positions, axes, sizes.pop())


def _places(data: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Position, orientation and pixel spacing of each frame."""
    if "PerFrameFunctionalGroupsSequence" not in data:
        yield data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing
        return
    shared = data.SharedFunctionalGroupsSequence[0] if "SharedFunctionalGroupsSequence" in data else {}
    for own in data.PerFrameFunctionalGroupsSequence:

        def said(group: str, name: str, own: Any = own) -> Any:
            return getattr((own if group in own else shared)[group][0], name)

        yield (
            said("PlanePositionSequence", "ImagePositionPatient"),
            said("PlaneOrientationSequence", "ImageOrientationPatient"),
            said("PixelMeasuresSequence", "PixelSpacing"),
        )


def indices_on(
    affine: NDArray[np.float64], shape: Sequence[int], frames: Frames
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], int]]:
    """For each frame the voxels that its columns, its rows and itself are nearest to.

    Args:
        affine: of the voxels, [4, 4], to mm, RAS+.
        shape: of the voxels, [X, Y, Z].
        frames: parallel to the voxels' x and y; they may lie between the voxels along these.

    Raises:
        DataError: they do not lie so.
    """
    to_voxel = np.linalg.inv(affine) @ LPS_TO_RAS
    steps = frames.axes @ to_voxel[:3, :3].T  # a row's and a column's, in voxels
    starts = frames.positions @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    columns, rows = (np.arange(size) for size in frames.size)
    crooked = np.abs(steps - np.diag([np.sign(steps[0, 0]), np.sign(steps[1, 1]), 0])[:2]).max(axis=0)
    if (crooked * max(frames.size) > CROOKED).any():
        raise DataError("voxels that are not those of its frames")
    for start in starts:
        along_x = np.rint(start[0] + steps[0, 0] * columns).astype(int)
        along_y = np.rint(start[1] + steps[1, 1] * rows).astype(int)
        along_z = round(float(start[2]))
        inside = along_x.min() >= 0 and along_y.min() >= 0 and 0 <= along_z < shape[2]
        if abs(start[2] - along_z) > BETWEEN or not inside or along_x.max() >= shape[0] or along_y.max() >= shape[1]:
            raise DataError("frames that lie between its voxels, or beside them")
        yield along_x, along_y, along_z


def on_frames(voxels: NDArray[Any], affine: NDArray[np.float64], frames: Frames) -> NDArray[Any]:
    """The voxels at the centres of the frames' pixels, [frames, rows, columns]: the nearest; errors as of `indices_on`.

    Args:
        voxels: [X, Y, Z].
        affine: their own, [4, 4], to mm, RAS+.
        frames: which ones.
    """
    result = np.empty((len(frames.positions), *frames.size[::-1]), dtype=voxels.dtype)
    for frame, (along_x, along_y, along_z) in zip(result, indices_on(affine, voxels.shape, frames), strict=True):
        frame[:] = voxels[..., along_z][np.ix_(along_x, along_y)].T
    return result
