"""NIfTI files: the one place that reads and writes them.

A file is read to its end, so that the checksum of a compressed one is compared: nibabel stops where the voxels end, and
would take altered ones. What is written lies where its scan lies for every reader: it carries the scan's own qform,
sform, their codes, pixdim and units, whatever they say.
"""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Header, Nifti2Image
from nibabel.volumeutils import apply_read_scaling, native_code
from numpy.typing import DTypeLike, NDArray

from aps_components.data.errors import DataError
from aps_components.data.geometry import Geometry, geometry_of
from aps_components.errors import system_fault
from aps_components.files import replacing
from aps_components.memory import NotEnoughMemoryError, require_memory

File = str | os.PathLike[str]

BLOCK = 1 << 20  # bytes
SIZES = {348: (Nifti1Header, Nifti1Image), 540: (Nifti2Header, Nifti2Image)}  # of a header, which its first field says
GZIP = b"\x1f\x8b"
MOST_PACKED = 1032  # bytes out of one, the most that deflate can do
SLICES = 16  # written at once
SCALED = 8  # bytes of a voxel that is scaled
COMPRESSION = 1  # as nibabel has it; more takes long and gains little
GEOMETRY = (
    *("pixdim", "xyzt_units", "qform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "sform_code", "srow_x", "srow_y", "srow_z"),
)


class Scan(NamedTuple):
    """A file that was read whole.

    Attributes:
        voxels: [X, Y, Z] or [X, Y, Z, C], in the file's own axes; scaled, unless asked for otherwise.
        geometry: where they lie.
        slope, intercept: of the scaling; 1 and 0 where there is none.
    """

    voxels: NDArray[Any]
    geometry: Geometry
    slope: float = 1.0
    intercept: float = 0.0


def read_header(file: File) -> Any:
    """nibabel's header, as the file has it: nothing is checked or mended.

    Raises:
        DataError: there is no such file, or it is no NIfTI file.
    """
    if Path(file).is_dir():
        raise DataError(f"{file}: is a folder; give the scan's file")
    if not Path(file).is_file():
        raise DataError(f"{file}: no such file; put the scan there or mend its path in the datalist")
    try:
        with _opened(file) as stream:
            start = stream.read(max(SIZES))
    except Exception as error:
        raise DataError(unreadable(file, error)) from error
    first = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    size = next((size for size in SIZES if size in first), 0)
    if not size or len(start) < size:
        raise DataError(unreadable(file, ValueError("its header is none of NIfTI's")))
    header = SIZES[size][0](start[:size], check=False)
    if bytes(header["magic"].tobytes()[:3]) not in (b"n+1", b"n+2"):
        raise DataError(unreadable(file, ValueError("its header does not say that the voxels follow in the same file")))
    return header


def read_geometry(file: File) -> Geometry:
    """Where the voxels of a file lie, by its header alone.

    Raises:
        DataError: it cannot be read, or its header states nothing that a scan can be.
    """
    return geometry_of(read_header(file), os.fspath(file))


def read_scan(file: File, *, scaled: bool = True) -> Scan:
    """Read a file whole.

    Args:
        file: ``.nii`` or ``.nii.gz``.
        scaled: False leaves the numbers as they are stored.

    Raises:
        DataError: it cannot be read, was altered or cut short, or is none that a scan can be.
    """
    header = read_header(file)
    geometry = geometry_of(header, os.fspath(file))
    _refuse_misplaced(file, header)
    _refuse_short(file, header)
    _require_room(file, header, scaled=scaled)
    try:
        with _opened(file) as stream:
            scan = SIZES[int(header["sizeof_hdr"])][1].from_stream(stream)
            voxels = np.asanyarray(scan.dataobj if scaled else scan.dataobj.get_unscaled())
            while stream.read(BLOCK):
                pass
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(unreadable(file, error)) from error
    shape = geometry.shape if voxels.ndim == 3 else (*geometry.shape, geometry.channels)
    return Scan(voxels.reshape(shape), geometry, scan.dataobj.slope, scan.dataobj.inter)


def scaling_of(header: Any) -> tuple[float, float]:
    """Slope and intercept of a scan's values as a header states them; 1 and 0 where it states none."""
    slope = float(header["scl_slope"])
    return (slope, float(header["scl_inter"])) if slope and math.isfinite(slope) else (1.0, 0.0)


def stored_shape(header: Any) -> tuple[int, ...]:
    """All axes, as the header has them."""
    return tuple(int(size) for size in header["dim"][1 : 1 + int(header["dim"][0])])


def stored_voxels(file: File, header: Any) -> Iterator[bytes]:
    """The voxels as they are stored, a part at a time.

    Args:
        file: that `read_geometry` takes.
        header: of it, by `read_header`.

    Raises:
        DataError: there are fewer than the header declares, or they cannot be read.
    """
    _refuse_misplaced(file, header)
    _refuse_short(file, header)
    left = _declared_bytes(header)
    try:
        with _opened(file) as stream:
            stream.seek(header.get_data_offset())
            while left > 0 and (block := stream.read(min(BLOCK, left))):
                left -= len(block)
                yield block
        if left:
            raise EOFError(f"{left} bytes are missing at its end")
    except Exception as error:
        raise DataError(unreadable(file, error)) from error


def channels_of(scan: Scan) -> NDArray[Any]:
    """The scan's voxels with the channels first, [C, X, Y, Z]."""
    return np.moveaxis(scan.voxels, 3, 0) if scan.voxels.ndim == 4 else scan.voxels[None]


def read_channels(file: File, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """A file's voxels as [C, X, Y, Z], float32; scaled some slices at a time, which nibabel does in float64.

    Args:
        file: ``.nii`` or ``.nii.gz``.
        out: where to put them; by default a new array that lies in memory as the file does.

    Raises:
        DataError: as of `read_scan`.
    """
    scan = read_scan(file, scaled=False)
    channels = channels_of(scan)
    target = np.empty_like(channels, dtype=np.float32, subok=False) if out is None else out
    scaled = (scan.slope, scan.intercept) != (1, 0)
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite
        for first in range(0, channels.shape[3], SLICES):
            part = channels[..., first : first + SLICES]
            target[..., first : first + SLICES] = (
                apply_read_scaling(part, scan.slope, scan.intercept) if scaled else part
            )
    return target


def write_like(path: File, voxels: NDArray[Any], header: Any, *, description: str = "") -> None:
    """Write a map of a scan, whole or not at all, with the geometry of the scan's header.

    Nothing else of the header is kept: its texts may name a person.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``.
        voxels: [X, Y, Z] or [X, Y, Z, C], on the scan's grid.
        header: of the scan, by `read_header`.
        description: for the header, 79 characters at most.
    """
    voxels = np.asarray(voxels)
    channels = iter([voxels] if voxels.ndim == 3 else np.moveaxis(voxels, -1, 0))
    write_channels(path, channels, shape=voxels.shape, dtype=voxels.dtype, header=header, description=description)


def write_channels(
    path: File,
    channels: Iterable[NDArray[Any]],
    *,
    shape: Sequence[int],
    dtype: DTypeLike,
    header: Any,
    description: str = "",
) -> None:
    """What `write_like` does, of channels [X, Y, Z] that need not exist at the same time.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``.
        channels: one after another.
        shape: (X, Y, Z) or (X, Y, Z, C), of all.
        dtype: of the voxels.
        header: of the scan, by `read_header`.
        description: for the header, 79 characters at most.
    """
    own = header.as_byteswapped(native_code)
    new = type(own)()
    for field in GEOMETRY:
        new[field] = own[field]
    new["dim"] = [len(shape), *shape, *[1] * (7 - len(shape))]
    new.set_data_dtype(dtype)
    new["descrip"] = description.encode("ascii")
    new["scl_slope"], new["scl_inter"] = 1.0, 0.0
    new["magic"] = new.single_magic
    new["vox_offset"] = new.single_vox_offset
    padding = bytes(new.single_vox_offset - int(new["sizeof_hdr"]))  # which says that no extension follows
    with replacing(path) as unfinished, _written(unfinished) as stream:
        stream.write(new.binaryblock + padding)
        for channel in channels:
            for first in range(0, channel.shape[2], SLICES):
                part = channel[:, :, first : first + SLICES]
                stream.write(part.astype(new.get_data_dtype(), copy=False).tobytes(order="F"))


def write_nifti(path: File, voxels: NDArray[Any], affine: NDArray[np.float64], *, description: str = "") -> None:
    """Write a volume, whole or not at all.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``.
        voxels: [X, Y, Z] or [X, Y, Z, C].
        affine: [4, 4], voxel to mm, RAS+; qform and sform both say it, of the scanner's own space.
        description: for the header, 79 characters at most.
    """
    header = Nifti1Header()
    header.set_qform(affine, code="scanner")
    header.set_sform(affine, code="scanner")
    header.set_xyzt_units("mm")
    write_like(path, voxels, header, description=description)


def unreadable(file: File, error: Exception) -> str:
    """The fault of a file whose voxels cannot be read."""
    if fault := system_fault(error):
        return f"{os.fspath(file)}: {fault}"
    return (
        f"{os.fspath(file)}: cannot be read as NIfTI ({type(error).__name__}: {str(error).strip()[:200]}); "
        "it looks truncated, damaged or is another format: copy, download or convert it again"
    )


def _refuse_misplaced(file: File, header: Any) -> None:
    """Where a header says that its voxels begin in itself, or between two bytes, readers take them from elsewhere."""
    offset = float(header["vox_offset"])
    if not (offset >= header.single_vox_offset and offset.is_integer()):
        raise DataError(
            f"{os.fspath(file)}: its header states that the voxels begin at byte {offset:g}, where they cannot (from "
            f"{header.single_vox_offset} on); convert the scan again"
        )


def _refuse_short(file: File, header: Any) -> None:
    """A few bytes that declare gigabytes are not worth the memory to find out."""
    declared = _declared_bytes(header)
    with open(file, "rb") as stream:
        most = os.path.getsize(file) * (MOST_PACKED if stream.read(2) == GZIP else 1)
    if declared > most:
        raise DataError(unreadable(file, EOFError(f"it declares {declared} bytes and can hold {most} at most")))


def _require_room(file: File, header: Any, *, scaled: bool) -> None:
    """A short file can be packed gigabytes of zeros."""
    is_scaled = scaled and scaling_of(header)[0] != 1
    each = int(header.get_data_dtype().itemsize) + (SCALED if is_scaled else 0)
    try:
        require_memory(each * math.prod(stored_shape(header)), what=os.fspath(file), mend="crop or resample the scan")
    except NotEnoughMemoryError as error:
        raise DataError(str(error)) from None


def _declared_bytes(header: Any) -> int:
    """Of all voxels."""
    return math.prod(stored_shape(header)) * int(header.get_data_dtype().itemsize)


@contextmanager
def _opened(file: File) -> Iterator[BinaryIO]:
    """By what the file is, not by its name."""
    with open(file, "rb") as stream:
        packed = stream.read(2) == GZIP
        stream.seek(0)
        if not packed:
            yield stream
            return
        with gzip.GzipFile(fileobj=stream) as unpacked:
            yield cast(BinaryIO, unpacked)


@contextmanager
def _written(file: Path) -> Iterator[BinaryIO]:
    with open(file, "wb") as stream:
        if not file.name.lower().endswith(".gz"):
            yield stream
            return
        with gzip.GzipFile(filename="", fileobj=stream, mode="wb", compresslevel=COMPRESSION, mtime=0) as packed:
            yield cast(BinaryIO, packed)
