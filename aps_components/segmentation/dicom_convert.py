"""Multi-frame DICOM files, as dcm2niix converts them, and whether what it made lies where their headers say."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps_components.data import DataError
from aps_components.data.nifti import read_scan
from aps_components.segmentation.dicom_frames import frames_of, indices_on, read_header
from aps_components.segmentation.dicom_pixels import check_pixels

NAME = "dcm2niix"
INSTALL = f"run: pip install {NAME}"
# Whatever the user likes otherwise: without a sidecar and compression, rescaled as the header says, neither cropped nor
# turned.
OPTIONS = ["-g", "i", "-b", "n", "-z", "n", "-p", "n", "-x", "i", "-f", "image"]
PATIENCE = 3600  # seconds
LAST_WORDS = 200  # letters


def program() -> str | None:
    """The path of dcm2niix: that of its Python package, or the one on the PATH; None where there is neither."""
    try:
        found = Path(str(importlib.import_module(NAME).bin))
    except (ImportError, AttributeError):
        return shutil.which(NAME)
    found = found.with_suffix(".exe") if os.name == "nt" else found
    return str(found) if found.is_file() else shutil.which(NAME)


def converted(file: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The voxels [x, y, z] of a multi-frame file, rescaled, and their affine [4, 4], voxel to mm, RAS+.

    Raises:
        DataError: dcm2niix is not installed, cannot convert the file, or makes something else of it than one volume
            that lies where the header says.
    """
    if (dcm2niix := program()) is None:
        raise DataError(f"{file}: a multi-frame file, which {NAME} converts, and that is not installed; {INSTALL}")
    check_pixels(file)
    with tempfile.TemporaryDirectory(prefix="aps_dicom_") as folder:
        source, target = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        target.mkdir()
        _lay(file, source / "image.dcm")
        said = _run([dcm2niix, *OPTIONS, "-o", str(target), str(source)], file)
        volumes = sorted(target.glob("*.nii"))
        if len(volumes) != 1:
            raise DataError(f"{file}: {NAME} makes {len(volumes)} volumes of it, and one is wanted{said}")
        scan = read_scan(volumes[0])
        voxels, affine = np.array(scan.voxels), scan.geometry.affine
    _refuse_misplaced(file, voxels.shape, affine)
    return voxels, affine


def _lay(file: str, place: Path) -> None:
    """A folder of its own, since dcm2niix takes all that lie in one."""
    try:
        place.symlink_to(os.path.abspath(file))
    except OSError:  # Windows asks for a right to make links
        shutil.copyfile(file, place)


def _run(command: Sequence[str], file: str) -> str:
    """Its last words, as the end of a message."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"{file}: {NAME} could not convert it ({error})") from error
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    said = f" ({lines[-1][:LAST_WORDS]})" if lines else ""
    if done.returncode:
        raise DataError(f"{file}: {NAME} cannot convert it{said}; export it as single slices")
    return said


def _refuse_misplaced(file: str, shape: Sequence[int], affine: NDArray[np.float64]) -> None:
    """What dcm2niix makes is as good as the order in which a header counts its frames."""
    try:
        header = read_header(file)
        frames = frames_of([header])
        if len(shape) != 3:
            raise DataError("several volumes")
        slices = [index for *_, index in indices_on(affine, shape, frames)]
        if sorted(slices) != list(range(shape[2])):
            raise DataError("frames that are missing, or lie where another one does")
        if not _are_counted_along(header, frames.heights):
            raise DataError("frames that are not counted in the order in which they lie")
    except DataError as error:
        raise DataError(
            f"{file}: {NAME} makes no volume of it that could be relied on: {error}; export it anew"
        ) from None


def _are_counted_along(header: Any, heights: NDArray[np.float64]) -> bool:
    """Whether the numbers that a file gives its frames rise, or fall, along their normal."""
    try:
        frames = header.PerFrameFunctionalGroupsSequence
        numbers = [tuple(frame.FrameContentSequence[0].DimensionIndexValues) for frame in frames]
    except (AttributeError, IndexError, TypeError):
        return True
    order = sorted(range(len(numbers)), key=lambda index: numbers[index])
    gaps = np.diff(heights[order])
    return bool((gaps > 0).all() or (gaps < 0).all())
