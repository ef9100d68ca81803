"""The one rule for where the voxels of a NIfTI file lie; ``docs/reference/geometry.md`` says it to users.

The sform counts where ``sform_code`` is above 0, else the qform where ``qform_code`` is, else ``pixdim`` alone: methods
3, 2 and 1 of the standard (https://nifti.nimh.nih.gov/nifti-1) in the order in which nibabel, too, takes them. Metres
and microns become mm. Headers are looked at as they are in the file: nibabel mends some of what it reads, and says so
in a log alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from nibabel.nifti1 import data_type_codes
from nibabel.orientations import io_orientation
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from aps_components.data.errors import DataError

Affine = NDArray[np.float64]

SMALLEST, LARGEST = 0.07, 25.0  # mm, of a voxel's sides: what lies outside is microscopy, or a wrong unit
FARTHEST = 1e6  # mm, of the first voxel from the origin: beyond, a header's float32 tell no neighbours apart
COARSEST = 10.0  # mm, of its shortest side: SPECT has up to 9.6
MAGNIFIED = (10, 100)  # times, by which the sizes of a microscopy may be stated to be those of a scan
REAL = "biuf"  # NumPy's kinds of types that voxels may have
CODES = range(6)  # of qform_code and sform_code
UNITS = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # to mm; 0 states none
UNIT_NAMES = {1: "metres", 3: "microns"}
FLATTEST = 1e-3  # volume of a voxel as a share of the product of its sides
SAME_SIZE = 1e-3  # share by which pixdim may differ from the sizes that count
SAME_PLACE = 0.1  # share of the shortest side by which qform and sform may differ
PERPENDICULAR = 0.1  # degrees
NO_INVERSE = {
    "affine": "give the one from voxel to mm",
    "sform": "set the voxel sizes in the header, or sform_code to 0",
}


class Geometry(NamedTuple):
    """Where the voxels of one file lie.

    Attributes:
        shape: of the volume, voxels along the file's axes.
        channels: 1 for a 3-D file.
        affine: [4, 4], from voxel to mm, RAS+.
        notes: what in the header is doubtful, and how it was taken; each names the file.
    """

    shape: tuple[int, int, int]
    channels: int
    affine: Affine
    notes: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """A voxel's sides along the file's axes, mm."""
        first, second, third = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return first, second, third

    @property
    def ras_spacing(self) -> tuple[float, float, float]:
        """The same along x, y, z of the scan turned to RAS."""
        along = np.argsort(io_orientation(self.affine)[:, 0])
        x, y, z = (self.spacing[axis] for axis in along)
        return x, y, z

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        return abs(float(np.linalg.det(self.affine[:3, :3])))


def geometry_of(header: Any, file: str) -> Geometry:
    """The geometry that a header states.

    Args:
        header: nibabel's ``Nifti1Header`` or ``Nifti2Header``, made without its checks.
        file: for messages.

    Raises:
        DataError: it states none that a scan can have; what is wrong, and the mend.
    """
    _refuse_type(header, file)
    shape, channels = _shape(header, file)
    unit = UNITS.get(_unit(header), 1.0)
    affine, states = _affine(header, shape, file)
    affine[:3] *= unit
    refuse_affine(affine, file, states=states, unit=_unit(header))
    notes = tuple(f"{file}: {note}" for note in _notes(header, shape, affine, states))
    return Geometry(shape, channels, affine, notes)


def refuse_affine(affine: Affine, file: str, *, states: str = "affine", unit: int = 0) -> None:
    """Refuse one that no scan has.

    Args:
        affine: [4, 4], from voxel to mm.
        file: for messages.
        states: the fields of a header that say so; "affine" of an array, which has none.
        unit: that the header states.

    Raises:
        DataError: what is wrong, and the mend.
    """
    if not np.isfinite(affine).all():
        raise DataError(f"{file}: its {states} holds {affine[:3].tolist()}; set the voxel sizes and the place anew")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if abs(np.linalg.det(affine[:3, :3])) <= FLATTEST * np.prod(sizes):
        raise DataError(
            f"{file}: its affine {affine[:3].tolist()} has no inverse; "
            f"{NO_INVERSE.get(states, 'set the voxel sizes in the header, or the sform')}"
        )
    if not _fit(sizes):
        said = f", which its header states in {UNIT_NAMES[unit]}" if unit in UNIT_NAMES else ""
        times = 10 ** math.ceil(math.log10(SMALLEST / sizes.min()))
        true = f"; if they are true, as of micro-CT, state them {times} times as large in every scan"
        mend = "give an affine in mm" if states == "affine" else "mend the voxel sizes or xyzt_units in the header"
        true *= times in MAGNIFIED and _fit(times * sizes)
        raise DataError(
            f"{file}: its voxels are {_by(sizes)} mm{said}; a scan has {SMALLEST:g} to {LARGEST:g}, and "
            f"{COARSEST:g} at most along its finest axis: {mend}{true}"
        )
    if (far := float(np.linalg.norm(affine[:3, 3]))) > FARTHEST:
        raise DataError(f"{file}: its {states} puts it {far:.3g} mm from the origin; set its place anew")


def not_real(file: str, kind: str, name: str) -> str:
    """The fault of voxels of a type that is none of ``REAL``; ``kind`` is NumPy's letter of it."""
    mend = {"c": "take its magnitude", "V": "give the scan of which it is a colour picture"}.get(kind, "convert it")
    return f"{file}: its voxels are of type {name}, but a scan has one real number a voxel: {mend}"


def _refuse_type(header: Any, file: str) -> None:
    code = int(header["datatype"])
    if code not in data_type_codes:
        raise DataError(f"{file}: its voxels are of the unknown type {code}; convert the scan again")
    kind = np.dtype(data_type_codes.dtype[code]).kind
    if kind not in REAL:
        raise DataError(not_real(file, kind, data_type_codes.label[code]))


def _shape(header: Any, file: str) -> tuple[tuple[int, int, int], int]:
    dims = [int(size) for size in header["dim"]]
    count = dims[0]
    if not 1 <= count <= 7:
        raise DataError(f"{file}: its header states {count} axes; convert the scan again")
    shape = dims[1 : 1 + count]
    while len(shape) > 4 and shape[-1] == 1:
        shape.pop()
    if len(shape) not in (3, 4):
        raise DataError(
            f"{file}: a {len(shape)}-D image of shape {tuple(shape)}; a 3-D scan is wanted, or a 4-D file whose "
            "last axis is the channels: stack the slices into one volume"
        )
    if min(shape) < 1:
        raise DataError(f"{file}: empty, its shape is {tuple(shape)}; export the scan again")
    return (shape[0], shape[1], shape[2]), shape[3] if len(shape) == 4 else 1


def _unit(header: Any) -> int:
    return int(header["xyzt_units"]) & 7


def _affine(header: Any, shape: tuple[int, int, int], file: str) -> tuple[Affine, str]:
    """In the header's own unit, and which of its fields say so."""
    for field in ("sform_code", "qform_code"):
        if int(header[field]) not in CODES:
            raise DataError(f"{file}: its {field} is {int(header[field])}, which means nothing; set it to 1, or to 0")
    if int(header["sform_code"]):
        return _sform(header), "sform"
    if int(header["qform_code"]):
        return _qform(header, file), "qform"
    sizes = _true_sizes(header, file)
    # nibabel's and FSL's choice where nothing is stated: left, anterior, superior, about the volume's centre.
    affine = np.diag([-sizes[0], sizes[1], sizes[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine, "pixdim"


def _pixdim(header: Any) -> NDArray[np.float64]:
    return np.asarray(header["pixdim"][1:4], dtype=float)


def _true_sizes(header: Any, file: str) -> NDArray[np.float64]:
    """Where they count, they must be some: nibabel takes 0 for 1 and -2 for 2, ITK both for 1."""
    sizes = _pixdim(header)
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise DataError(f"{file}: its voxel sizes, pixdim, are {sizes.tolist()}; set the true ones in the header")
    return sizes


def _sform(header: Any) -> Affine:
    rows = [np.asarray(header[f"srow_{axis}"], dtype=float) for axis in "xyz"]
    return np.vstack([*rows, [0.0, 0.0, 0.0, 1.0]])


def _qform(header: Any, file: str) -> Affine:
    _true_sizes(header, file)
    if (turn := float(header["pixdim"][0])) not in (-1.0, 1.0):
        if not turn >= 0:
            raise DataError(f"{file}: its pixdim[0] is {turn:g}, which must be 1 or -1; convert the scan again")
        header = header.copy()
        header["pixdim"][0] = 1.0  # what every reader takes it for
    try:
        return np.asarray(header.get_qform(coded=False), dtype=float)
    except (ValueError, HeaderDataError) as error:
        raise DataError(f"{file}: its qform is no rotation ({error}); set the qform or the sform anew") from error


def _fit(sizes: Affine) -> bool:
    """Whether a scan can have voxels of these sides, mm."""
    return bool(SMALLEST <= sizes.min() <= COARSEST and sizes.max() <= LARGEST)


def _notes(header: Any, shape: tuple[int, int, int], affine: Affine, states: str) -> Iterator[str]:
    unit = _unit(header)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if states == "pixdim":
        yield (
            "states no orientation (qform_code and sform_code are 0): taken as left, anterior, superior, as nibabel "
            "and FSL do; left and right may be swapped"
        )
    if unit in UNIT_NAMES:
        yield f"its sizes are in {UNIT_NAMES[unit]}, and were converted to mm"
    elif unit not in UNITS:
        yield f"states the unknown unit {unit}: taken as mm"
    if states == "sform":
        yield from _sform_notes(header, shape, affine, sizes)
    axes = affine[:3, :3] / sizes
    cosines = np.abs(axes.T @ axes)[np.triu_indices(3, 1)]
    if (tilt := float(np.degrees(np.arcsin(min(1.0, cosines.max()))))) > PERPENDICULAR:
        yield f"its axes are {tilt:.1f} degrees off perpendicular: its {states} counts as it is, and ITK reads another"


def _sform_notes(header: Any, shape: tuple[int, int, int], affine: Affine, sizes: NDArray[np.float64]) -> Iterator[str]:
    """Where what does not count says another thing than what does."""
    scale = UNITS.get(_unit(header), 1.0)
    pixdim = _pixdim(header) * scale
    if not (np.abs(pixdim - sizes) <= SAME_SIZE * sizes).all():
        yield f"its pixdim says voxels of {_by(pixdim)} mm, its sform {_by(sizes)} mm: the sform counts"
    if not int(header["qform_code"]):
        return
    try:
        qform = _qform(header, "")
        qform[:3] *= scale
    except DataError:
        qform = np.full((4, 4), np.nan)
    if not np.isfinite(qform).all():
        yield "its qform means nothing: the sform counts"
        return
    corners = np.array([*product(*((0, size - 1) for size in shape))], dtype=float)
    apart = (affine - qform)[:3, :3] @ corners.T + (affine - qform)[:3, 3:]
    distance = float(np.linalg.norm(apart, axis=0).max())
    if not distance <= SAME_PLACE * sizes.min():
        yield f"its qform and sform lie up to {distance:.3g} mm apart: the sform counts"


def _by(sizes: NDArray[np.float64]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
