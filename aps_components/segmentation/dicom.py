"""DICOM series as volumes: which ones a folder holds, and where their voxels lie.

pydicom reads the headers, and SimpleITK, that is GDCM, the pixels, compressed ones too, with the rescale slope and
intercept of every slice. Slices go in one at a time: SimpleITK's own series reader gives a whole series the number
type of its first slice, which truncates the others (SimpleITK issue 1636). A series is read whole and even, or refused.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps_components.data import DataError, nifti

TAGS = [
    *["SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality", "NumberOfFrames", "SamplesPerPixel"],
    *["Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"],
]
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ORIENTATION_TOLERANCE = 1e-3  # of a direction cosine
EVENNESS = 0.02, 0.01  # share of the spacing, and mm, by which the distance of two slices may differ from it
TILT = 0.005  # mm to the side per mm along the stack, 0.3 degrees
CONVERT = "convert it to NIfTI, for instance with dcm2niix"
ENDINGS = (".dcm", ".ima")  # other files are told by their first bytes


@dataclass(frozen=True)
class Slice:
    """One file of a series: what its header says."""

    file: str
    frames: int
    samples: int
    size: tuple[int, int]  # columns, rows
    spacing: tuple[float, float] | None  # mm, along a row and along a column
    position: tuple[float, ...] | None  # mm, LPS
    orientation: tuple[float, ...] | None  # direction of a row, then of a column


@dataclass(frozen=True)
class Series:
    """The files of one series. Its name is made of the series' number and description, and of nothing of a person."""

    uid: str
    number: int | None
    description: str
    slices: tuple[Slice, ...]
    fault: str = ""  # a damaged file lies in a folder of these slices, and may be one of them

    @property
    def name(self) -> str:
        """Such as ``003_t1_axial``."""
        words = re.sub(r"[^a-z0-9]+", "_", self.description.lower()).strip("_")[:40].rstrip("_")
        parts = ["series" if self.number is None and not words else "", words]
        return "_".join(part for part in ("" if self.number is None else f"{self.number:03d}", *parts) if part)

    @property
    def no_volume(self) -> str | None:
        """Why this was never meant as a volume, such as a localizer or a screenshot; None for all others."""
        first = self.slices[0]
        if self.fault:
            return None
        if any(part.samples != 1 for part in self.slices):
            return "colour pictures"
        if all(part.frames == 1 and part.position is None for part in self.slices):
            return "pictures without a place in space"
        if len(self.slices) == 1 and first.frames == 1:
            return "a single slice"
        if (directions := _directions(self.slices)) > 1:
            return f"slices in {directions} directions, as of a localizer"
        return None


def is_dicom(file: str | os.PathLike[str]) -> bool:
    """Whether a file says of itself that it is DICOM, whatever its name."""
    try:
        with open(file, "rb") as stream:
            stream.seek(128)
            return stream.read(4) == b"DICM"
    except OSError:
        return False


def find_series(folder: str | os.PathLike[str]) -> list[Series]:
    """All series of images in a folder and the folders in it, by number; each has a name of its own for `series_names`.

    A damaged file is the fault of the series beside it, and of no other one.

    Raises:
        DataError: a file is damaged, and no series lies elsewhere.
        RuntimeError: pydicom is not installed.
    """
    groups: dict[str, list[Any]] = {}
    damaged: dict[str, str] = {}  # folder to the first damaged file in it
    for file, header in _headers(folder):
        if isinstance(header, DataError):
            damaged.setdefault(os.path.dirname(file), str(header))
        else:
            groups.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((file, header))
    found = [_series(uid, members, damaged) for uid, members in groups.items()]
    if damaged and all(series.fault for series in found):
        raise DataError(next(iter(damaged.values())))
    return sorted(found, key=lambda series: (series.number is None, series.number or 0, series.name, series.uid))


def _series(uid: str, members: Sequence[tuple[str, Any]], damaged: Mapping[str, str]) -> Series:
    first, slices = members[0][1], []
    faults = [damaged[place] for file, _ in members if (place := os.path.dirname(file)) in damaged]
    for file, header in members:
        try:
            slices.append(_slice(file, header))
        except DataError as error:
            faults.append(str(error))
            slices.append(Slice(file, 1, 1, (0, 0), None, None, None))
    try:
        number = _whole(first.get("SeriesNumber"), None)
    except (TypeError, ValueError):
        number = None
    return Series(uid, number, str(first.get("SeriesDescription") or ""), tuple(slices), next(iter(faults), ""))


def series_names(series: Sequence[Series]) -> list[str]:
    """A name for each; those that would share one get a part of the hash of their UID."""
    names = [one.name for one in series]
    return [
        f"{name}_{hashlib.sha256(one.uid.encode()).hexdigest()[:8]}" if names.count(name) > 1 else name
        for one, name in zip(series, names, strict=True)
    ]


def read_series(series: Series) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The voxels [x, y, z], rescaled, and the affine [4, 4] from voxel to mm, RAS+ as NIfTI has it.

    Raises:
        DataError: slices are missing, doubled, uneven, tilted, of several sizes or unreadable, or in one multi-frame
            file.
        RuntimeError: SimpleITK is not installed.
    """
    slices, affine = geometry(series)
    volume = np.empty((*slices[0].size, len(slices)), dtype=np.float32)
    for index, part in enumerate(slices):
        volume[..., index] = _pixels(part.file)
    bounds = np.iinfo(np.int16)
    whole = bounds.min <= volume.min() and volume.max() <= bounds.max and np.array_equal(volume, np.rint(volume))
    return (volume.astype(np.int16) if whole else volume), affine


def write_nifti(series: Series, path: str | os.PathLike[str]) -> None:
    """The series as a NIfTI file; its header holds the geometry alone."""
    volume, affine = read_series(series)
    nifti.write_nifti(path, volume, affine)


def geometry(series: Series) -> tuple[list[Slice], NDArray[np.float64]]:
    """The slices from the first to the last along their normal, and the affine, RAS+; errors as of `read_series`."""
    parts = series.slices
    if series.fault:
        raise DataError(f"{_said(series)}: {series.fault}")
    if any(part.frames > 1 for part in parts):
        raise DataError(f"{_said(series)}: a multi-frame file, which is not read here; {CONVERT}")
    if any(None in (part.position, part.orientation, part.spacing) for part in parts):
        raise DataError(f"{_said(series)}: slices without position, orientation or pixel spacing; export it again")
    if len({(part.size, part.spacing) for part in parts}) > 1 or _directions(parts) > 1:
        raise DataError(f"{_said(series)}: slices of several sizes, pixel spacings or directions; {CONVERT}")
    row, column = np.reshape(np.asarray(parts[0].orientation, dtype=float), (2, 3))
    if np.abs([row @ row - 1, column @ column - 1, row @ column]).max() > ORIENTATION_TOLERANCE:
        raise DataError(
            f"{_said(series)}: its directions {parts[0].orientation} are not perpendicular; export it again"
        )
    normal = np.cross(row, column)
    places = np.array([part.position for part in parts], dtype=float)
    order = np.argsort(places @ normal, kind="stable")
    ordered, positions = [parts[index] for index in order], places[order]
    _refuse_uneven(series, positions, normal)
    affine = np.eye(4)
    along_row, along_column = parts[0].spacing or (1.0, 1.0)
    affine[:3, 0], affine[:3, 1] = row * along_row, column * along_column
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine[:3, 3] = positions[0]
    return ordered, LPS_TO_RAS @ affine


def _refuse_uneven(series: Series, positions: NDArray[np.float64], normal: NDArray[np.float64]) -> None:
    """What cannot lie on a regular grid, [slices, 3] in their order."""
    if len(positions) < 2:
        raise DataError(f"{_said(series)}: a single slice; a volume is wanted")
    heights = positions @ normal
    gaps, length = np.diff(heights), heights[-1] - heights[0]
    step = float(np.median(gaps))
    allowed = EVENNESS[0] * step + EVENNESS[1]
    if doubled := int((gaps < EVENNESS[1]).sum()):
        raise DataError(
            f"{_said(series)}: {doubled} slices lie where another one does, as of several echoes or times, or of files "
            f"that are there twice; keep one of each, or {CONVERT}"
        )
    if (gaps > 1.5 * step).any():
        at = ", ".join(
            f"{heights[index]:.1f} and {heights[index + 1]:.1f}" for index in np.nonzero(gaps > 1.5 * step)[0][:3]
        )
        missing = int(np.rint(gaps / step - 1).sum())
        raise DataError(
            f"{_said(series)}: about {missing} slices are missing, between {at} mm along the stack; copy all its files"
        )
    if (np.abs(gaps - step) > allowed).any():
        raise DataError(
            f"{_said(series)}: uneven slices, {gaps.min():.3f} to {gaps.max():.3f} mm apart; resample it to even ones"
        )
    sideways = float(np.linalg.norm(positions[-1] - positions[0] - length * normal))
    if sideways > TILT * length:
        raise DataError(
            f"{_said(series)}: tilted (its slices move {sideways:.1f} mm to the side over {length:.1f} mm); {CONVERT}, "
            "which straightens it"
        )


def _headers(folder: str | os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    """File and header of every image, in the order of their paths, or what is wrong with it.

    Other DICOM objects are passed over.
    """
    pydicom = _package("pydicom")
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in (os.path.join(place, name) for name in sorted(files) if not name.startswith(".")):
            if not is_dicom(file):
                if file.lower().endswith(ENDINGS):
                    fault = f"{file}: not DICOM in spite of its name, or damaged; copy it again, or remove it"
                    yield file, DataError(fault)
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of values that a header may not have, in places not read here
                try:
                    header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS)
                    image = "Rows" in header and "Columns" in header
                except Exception as error:  # a damaged header makes pydicom raise almost anything
                    header, image = (
                        DataError(f"{file}: a damaged DICOM file ({error}); copy it again, or remove it"),
                        True,
                    )
            if image:
                yield file, header


def _slice(file: str, header: Any) -> Slice:
    try:
        spacing = _floats(header.get("PixelSpacing"), 2)
        return Slice(
            file=file,
            frames=_whole(header.get("NumberOfFrames"), 1) or 1,
            samples=_whole(header.get("SamplesPerPixel"), 1) or 1,
            size=(int(header.Columns), int(header.Rows)),
            spacing=None if spacing is None else (spacing[1], spacing[0]),
            position=_floats(header.get("ImagePositionPatient"), 3),
            orientation=_floats(header.get("ImageOrientationPatient"), 6),
        )
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: a DICOM header that cannot be understood ({error}); export it again") from error


def _pixels(file: str) -> NDArray[np.float32]:
    """The rescaled values of one slice, [x, y]."""
    sitk = _package("SimpleITK")
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)
    reader.SetFileName(file)
    try:
        values = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise DataError(f"{file}: its pixels cannot be read, it looks truncated or damaged; copy it again") from error
    return np.asarray(values.reshape(values.shape[-2:]).T, dtype=np.float32)


def _said(series: Series) -> str:
    return f"series {series.name} ({Path(series.slices[0].file).parent})"


def _directions(slices: Sequence[Slice]) -> int:
    """How many different ones there are; slices without one do not count."""
    found: list[NDArray[np.float64]] = []
    for part in slices:
        if part.orientation is not None:
            direction = np.asarray(part.orientation)
            if all(np.abs(direction - other).max() > ORIENTATION_TOLERANCE for other in found):
                found.append(direction)
    return len(found)


def _floats(value: Any, count: int) -> tuple[float, ...] | None:
    numbers = None if value in (None, "") else tuple(float(number) for number in value)
    return numbers if numbers is not None and len(numbers) == count else None


def _whole(value: Any, default: int | None) -> int | None:
    return default if value in (None, "") else int(value)


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RuntimeError(
            f"{name}, which reads DICOM, is not installed; run: pip install SimpleITK pydicom"
        ) from error
