"""DICOM series as volumes: which ones a folder holds, and where their voxels lie.

pydicom reads the headers, and SimpleITK, that is GDCM, the pixels, compressed ones too, with the rescale slope and
intercept of every slice. Slices go in one at a time: SimpleITK's own series reader gives a whole series the number
type of its first slice, which truncates the others (SimpleITK issue 1636). A series is read whole and even, or refused.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps_components.data import DataError, nifti
from aps_components.errors import system_fault
from aps_components.memory import NotEnoughMemoryError, require_memory
from aps_components.segmentation.dicom_convert import converted
from aps_components.segmentation.dicom_decoders import other_compression, unpacked
from aps_components.segmentation.dicom_frames import LPS_TO_RAS
from aps_components.segmentation.dicom_pixels import check_pixels
from aps_components.segmentation.dicom_tilt import STEEPEST, TILT, put_upright, tilt_of, upright
from aps_components.segmentation.quiet import quiet

TAGS = [
    *["SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality", "NumberOfFrames", "SamplesPerPixel"],
    *["SOPClassUID", "Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"],
    *["PatientID", "RescaleSlope", "SpacingBetweenSlices", "SliceThickness"],
]
ORIENTATION_TOLERANCE = 1e-3  # of a direction cosine
EVENNESS = 0.02, 0.01  # share of the spacing, and mm, by which the distance of two slices may differ from it
SHORTEST = 0.5  # of a direction, which has length 1
FLOAT, COPIES = 4, 2  # bytes, and volumes while a series is read
CONVERT = "convert it to NIfTI, for instance with dcm2niix"
ENDINGS = (".dcm", ".ima")  # other files are told by their first bytes
START = b"DICM"
# How a file begins that has no preamble: the low groups, little endian, then a type of value or a length.
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
FIRST_TYPES = (b"UL", b"UI", b"CS", b"DA", b"LO", b"OB")
MOST_OF_FIRST = 256  # bytes, where the type is not written
# Of these kinds nothing is a scan, whatever it looks like.
NO_SCANS = {
    "SEG": "a segmentation",
    "RTSTRUCT": "contours",
    "RTDOSE": "a dose",
    "RTPLAN": "a plan",
    "SR": "a report",
    "PR": "a way to show pictures",
    "KO": "a selection of pictures",
    "REG": "a registration",
    "DOC": "a document",
    "PLAN": "a plan",
}


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
    patient: str = ""  # for comparison alone
    rescaled: bool = False  # whether it says how its values are to be rescaled
    declared_step: float | None = None  # mm from the middle of a slice to that of the next; None where it says none
    fault: str = ""  # why its header cannot be used


@dataclass(frozen=True)
class Series:
    """The files of one series. Its name is made of the series' number and description, and of nothing of a person."""

    uid: str
    number: int | None
    description: str
    slices: tuple[Slice, ...]
    kind: str = ""  # DICOM's word for what made it, such as CT
    damaged: str = ""  # a file that cannot be read, and seems to be one of its slices

    @property
    def name(self) -> str:
        """Such as ``003_t1_axial``."""
        words = re.sub(r"[^a-z0-9]+", "_", self.description.lower()).strip("_")[:40].rstrip("_")
        parts = ["series" if self.number is None and not words else "", words]
        return "_".join(part for part in ("" if self.number is None else f"{self.number:03d}", *parts) if part)

    @property
    def fault(self) -> str:
        """Why it cannot be read, as far as the headers say it; empty if they say nothing against it."""
        return self.damaged or next((part.fault for part in self.slices if part.fault), "")

    @property
    def no_volume(self) -> str | None:
        """Why this was never meant as a volume, such as a localizer or a screenshot; None for all others."""
        if self.kind in NO_SCANS:
            return f"{NO_SCANS[self.kind]} ({self.kind}), no scan"
        if self.fault:
            return None  # it was meant as one
        first = self.slices[0]
        if all(min(part.size) == 0 for part in self.slices):
            return "no pictures"
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
    """Whether a file says of itself that it is DICOM, whatever its name; pipes and devices are not opened."""
    try:
        if not os.path.isfile(file):
            return False
        with open(file, "rb") as stream:
            start = stream.read(132)
    except OSError:
        return False
    return start[128:] == START or _is_without_preamble(start)


def _is_without_preamble(start: bytes) -> bool:
    """As older devices write it: the first element stands at the very beginning."""
    if len(start) < 8 or start[:2] not in FIRST_GROUPS or start[2:4] == b"\xff\xff":
        return False
    return start[4:6] in FIRST_TYPES or 0 < int.from_bytes(start[4:8], "little") <= MOST_OF_FIRST


@quiet(complete=True)
def find_series(folder: str | os.PathLike[str]) -> list[Series]:
    """All series in a folder and the folders in it, by number; each has a name of its own for `series_names`.

    A damaged file is the fault of the series whose files it lies among, or a series of its own: the others can be read.

    Raises:
        DataError: nothing there can be read; of the first file, why.
        RuntimeError: pydicom is not installed.
    """
    groups: dict[str, list[Any]] = {}
    damaged: dict[str, str] = {}
    for file, header in _headers(folder):
        if isinstance(header, str):
            damaged[file] = header
        else:
            groups.setdefault(str(_asked(header, "SeriesInstanceUID") or ""), []).append((file, header))
    found = [_series(uid, members) for uid, members in groups.items()]
    found = _with_damaged(found, damaged)
    if found and all(series.damaged for series in found):
        raise DataError(found[0].damaged)
    return sorted(found, key=lambda series: (series.number is None, series.number or 0, series.name, series.uid))


def _series(uid: str, members: Sequence[tuple[str, Any]]) -> Series:
    first = members[0][1]
    slices = tuple(_slice(file, header) for file, header in members)
    kind = str(_asked(first, "Modality") or "").upper()
    return Series(uid, _number(first), str(_asked(first, "SeriesDescription") or ""), slices, kind)


def _number(header: Any) -> int | None:
    """A series' number that is none is as good as none."""
    try:
        with quiet(complete=True):
            return _whole(_asked(header, "SeriesNumber"), None)
    except (TypeError, ValueError, OverflowError):
        return None


def _with_damaged(found: list[Series], damaged: dict[str, str]) -> list[Series]:
    """The series, and of damaged files that lie among none's a series each."""
    alone, patterns = [], [{_pattern(part.file) for part in series.slices} for series in found]
    for file, fault in damaged.items():
        among = [index for index, names in enumerate(patterns) if _pattern(file) in names]
        for index in among:
            found[index] = replace(found[index], damaged=found[index].damaged or fault)
        if not among:
            part = Slice(file, 1, 1, (0, 0), None, None, None, fault=fault)
            alone.append(Series(file, None, Path(file).name, (part,), damaged=fault))
    return [*found, *alone]


def _pattern(file: str) -> tuple[str, str]:
    """What the names of a series' files have in common: the folder, and the name without its digits and ending."""
    folder, name = os.path.split(file)
    name = next((name[: -len(ending)] for ending in ENDINGS if name.lower().endswith(ending)), name)
    return folder, re.sub(r"\d+", "#", name)


def series_names(series: Sequence[Series]) -> list[str]:
    """A name for each; those that would share one get a part of the hash of their UID."""
    names = [one.name for one in series]
    return [
        f"{name}_{hashlib.sha256(one.uid.encode()).hexdigest()[:8]}" if names.count(name) > 1 else name
        for one, name in zip(series, names, strict=True)
    ]


@quiet(complete=True)
def read_series(series: Series) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The voxels [x, y, z], rescaled, and the affine [4, 4] from voxel to mm, RAS+ as NIfTI has it.

    Slices of a tilted gantry are put upright, and a multi-frame file is converted by dcm2niix.

    Raises:
        DataError: slices are missing, doubled, uneven, of several sizes or unreadable, or a multi-frame file cannot be
            converted.
        RuntimeError: SimpleITK is not installed.
    """
    if is_multi_frame(series):
        part = _only_file(series)
        _refuse_large(series, part.frames * part.size[0] * part.size[1])
        volume, affine = converted(part.file)
        return _compact(volume.astype(np.float32)), affine
    slices, affine = geometry(series)
    shape = (*slices[0].size, len(slices))
    grid = upright(shape, affine) if tilt_of(affine) > TILT else None
    _refuse_large(series, math.prod(shape) + (0 if grid is None else math.prod(grid.shape)))
    stack = np.empty(shape, dtype=np.float32)
    for index, part in enumerate(slices):
        stack[..., index] = _pixels(part.file)
    return (_compact(stack), affine) if grid is None else (_compact(put_upright(stack, grid)), grid.affine)


def grid(series: Series) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Shape and affine of what `read_series` reads; errors as of it."""
    if is_multi_frame(series):
        volume, affine = read_series(series)
        return (volume.shape[0], volume.shape[1], volume.shape[2]), affine
    slices, affine = geometry(series)
    shape = (*slices[0].size, len(slices))
    if tilt_of(affine) <= TILT:
        return shape, affine
    found = upright(shape, affine)
    return found.shape, found.affine


def is_multi_frame(series: Series) -> bool:
    """Whether a file of it holds several slices."""
    return not series.fault and any(part.frames > 1 for part in series.slices)


def _only_file(series: Series) -> Slice:
    if len(series.slices) > 1:
        raise DataError(f"{_said(series)}: several files, and several frames in one of them; {CONVERT}")
    return series.slices[0]


def _refuse_large(series: Series, voxels: int) -> None:
    try:
        require_memory(FLOAT * COPIES * voxels, what=_said(series), mend="take a machine with more memory")
    except NotEnoughMemoryError as error:
        raise DataError(str(error)) from None


def _compact(volume: NDArray[np.float32]) -> NDArray[Any]:
    """In 16 bits where that loses nothing."""
    bounds = np.iinfo(np.int16)
    whole = bounds.min <= volume.min() and volume.max() <= bounds.max and np.array_equal(volume, np.rint(volume))
    return volume.astype(np.int16) if whole else volume


def write_nifti(series: Series, path: str | os.PathLike[str]) -> None:
    """The series as a NIfTI file; its header holds the geometry alone."""
    volume, affine = read_series(series)
    nifti.write_nifti(path, volume, affine)


def geometry(series: Series) -> tuple[list[Slice], NDArray[np.float64]]:
    """Single slices from the first to the last along their normal, and the affine, RAS+; errors as of `read_series`.

    The third axis is at an angle to the others where the gantry was tilted.
    """
    parts = series.slices
    if series.fault:
        raise DataError(f"{_said(series)}: {series.fault}")
    if any(None in (part.position, part.orientation, part.spacing) for part in parts):
        raise DataError(f"{_said(series)}: slices without position, orientation or pixel spacing; export it again")
    if len({(part.size, part.spacing) for part in parts}) > 1 or _directions(parts) > 1:
        raise DataError(f"{_said(series)}: slices of several sizes, pixel spacings or directions; {CONVERT}")
    if len({part.patient for part in parts}) > 1:
        raise DataError(f"{_said(series)}: slices of several patients, by their PatientID; keep those of one")
    if len({part.rescaled for part in parts}) > 1:
        raise DataError(f"{_said(series)}: only some of its slices have a RescaleSlope; export it again")
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
    _refuse_every_other(series, positions @ normal)
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
    line = positions[0] + np.outer((heights - heights[0]) / length, positions[-1] - positions[0])
    if (off := float(np.linalg.norm(positions - line, axis=1).max())) > allowed:
        raise DataError(
            f"{_said(series)}: a slice lies {off:.2f} mm beside the line of the others, as of two series in one; "
            "export it again"
        )
    sideways = float(np.linalg.norm(positions[-1] - positions[0] - length * normal))
    if sideways > STEEPEST * length:
        raise DataError(f"{_said(series)}: its slices move further to the side than along the stack; export it again")


def _refuse_every_other(series: Series, heights: NDArray[np.float64]) -> None:
    """Even slices that lie twice, three times ... as far apart as all their headers say, [slices] mm in their order."""
    declared = {part.declared_step for part in series.slices}
    said = next(iter(declared))
    if len(declared) > 1 or said is None:
        return
    step = float(np.median(np.diff(heights)))
    times = round(step / said)
    if times > 1 and abs(step - times * said) <= EVENNESS[0] * said:
        raise DataError(
            f"{_said(series)}: its slices lie {step:g} mm apart, and by their SpacingBetweenSlices {said:g} mm, as "
            f"where one in {times} was copied; copy all its files"
        )


def _headers(folder: str | os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    """Every DICOM file with its header, or with what is wrong with it, in the order of their paths."""
    pydicom = _package("pydicom")
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        # Pipes, devices and sockets are nothing to wait for.
        paths = [os.path.join(place, name) for name in sorted(files) if not name.startswith(".")]
        regular = [file for file in paths if os.path.isfile(file)]
        of_dicom = {_pattern(file) for file in regular if is_dicom(file)}
        for file in regular:
            if is_dicom(file):
                header = _header(pydicom, file)
                if header is not None:
                    yield file, header
            elif file.lower().endswith(ENDINGS) or (_has_digit(file) and _pattern(file) in of_dicom):
                yield file, f"{file}: not DICOM in spite of its name, or damaged; copy it again, or remove it"


def _has_digit(file: str) -> bool:
    return any(letter.isdigit() for letter in os.path.basename(file))


def _header(pydicom: ModuleType, file: str) -> Any:
    """The header, or what is wrong with it; None for files that are of no series, such as a directory of them."""
    with quiet(complete=True):  # of values that a header may not have, in places not read here
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS, force=True)
            known = any(name in header for name in ("SeriesInstanceUID", "Rows", "SOPClassUID"))
        except Exception as error:  # a damaged header makes pydicom raise almost anything
            damaged = f"a damaged DICOM file ({_first_line(error)}); copy it again, or remove it"
            return f"{file}: {system_fault(error) or damaged}"
    return header if known else None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _asked(header: Any, name: str) -> Any:
    """A value of a header, None where it cannot be understood."""
    try:
        with quiet(complete=True):
            return header.get(name)
    except Exception:  # an unknown type of value, a text where a number is wanted, ...
        return None


def _slice(file: str, header: Any) -> Slice:
    try:
        with quiet(complete=True):
            spacing = _floats(header.get("PixelSpacing"), 2)
            part = Slice(
                file=file,
                frames=_whole(header.get("NumberOfFrames"), 1) or 1,
                samples=_whole(header.get("SamplesPerPixel"), 1) or 1,
                size=(_whole(header.get("Columns"), 0) or 0, _whole(header.get("Rows"), 0) or 0),
                spacing=None if spacing is None else (spacing[1], spacing[0]),
                position=_floats(header.get("ImagePositionPatient"), 3),
                orientation=_floats(header.get("ImageOrientationPatient"), 6),
                patient=str(header.get("PatientID") or ""),
                rescaled=header.get("RescaleSlope") not in (None, ""),
                declared_step=_declared_step(header),
            )
    except Exception as error:  # of pydicom's, almost any
        fault = f"{file}: a DICOM header that cannot be understood ({_first_line(error)}); export it again"
        return Slice(file, 1, 1, (1, 1), None, None, None, fault=fault)
    numbers = {"pixel spacing": part.spacing, "position": part.position, "orientation": part.orientation}
    for name, values in numbers.items():
        if values is not None and not np.isfinite(values).all():
            return replace(part, fault=f"{file}: its {name} is {values}; export it again")
    if part.spacing is not None and min(part.spacing) <= 0:
        return replace(part, fault=f"{file}: its pixel spacing is {part.spacing} mm; export it again")
    if part.orientation is not None and min(np.linalg.norm(np.reshape(part.orientation, (2, 3)), axis=1)) < SHORTEST:
        return replace(part, fault=f"{file}: its orientation is {part.orientation}, no directions; export it again")
    if _number_of(header, "SpacingBetweenSlices") == 0:  # ITK reads no such file
        return replace(part, fault=f"{file}: its SpacingBetweenSlices is 0 mm; export it again")
    return part


def _declared_step(header: Any) -> float | None:
    """SpacingBetweenSlices, unless it is the gap from rim to rim, as some devices write: less than a slice is thick."""
    step, thickness = (_number_of(header, name) or 0.0 for name in ("SpacingBetweenSlices", "SliceThickness"))
    return None if step <= 0 or step < (1 - EVENNESS[0]) * thickness else step


def _number_of(header: Any, name: str) -> float | None:
    """A number that nothing depends on; None where there is none, or none that can be understood."""
    try:
        value = float(_asked(header, name))
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _pixels(file: str) -> NDArray[np.float32]:
    """The rescaled values of one slice, [x, y], which are those that its header declares."""
    check_pixels(file)
    sitk = _package("SimpleITK")
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)
    reader.SetFileName(file)
    try:
        values = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        if compression := other_compression(file):
            return unpacked(file, compression)
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
