"""Whether the pixels of a DICOM file are those that its header declares.

GDCM believes the header: where that declares more than there is, it hands out memory that nobody wrote.
"""

from __future__ import annotations

import importlib
import math
import os
import struct
from collections.abc import Iterator
from typing import Any

from aps_components.data import DataError
from aps_components.errors import system_fault
from aps_components.segmentation.quiet import quiet

BITS = (8, 16, 32)
MOST_BITS_SWAPPED = 16  # a word (PS3.5, annex A.3): of two, pydicom exchanges the order, too, and GDCM does not
PADDING = 1  # byte, which makes an odd length even
RLE = "1.2.840.10008.1.2.5"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
PLAIN = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", BIG_ENDIAN}  # pixels are not packed
JPEG_START = b"\xff\xd8"
JPEG_2000_START = b"\xff\x4f\xff\x51"
FRAME_HEADERS = {*range(0xFFC0, 0xFFD0), 0xFFF7} - {0xFFC4, 0xFFC8, 0xFFCC}  # SOF of JPEG, and of JPEG-LS

DECLARED = (
    *(("Rows", 0), ("Columns", 0), ("BitsAllocated", 0), ("BitsStored", 0)),
    *(("SamplesPerPixel", 1), ("NumberOfFrames", 1)),
)
RESCALING = (("RescaleSlope", 1), ("RescaleIntercept", 0))


def check_pixels(file: str | os.PathLike[str]) -> None:
    """Compare what the header of a file declares with the pixels that it holds.

    Raises:
        DataError: they differ, or there are none.
    """
    pydicom = importlib.import_module("pydicom")
    with quiet(complete=True):
        try:
            data = pydicom.dcmread(file, force=True)
            syntax = getattr(getattr(data, "file_meta", None), "TransferSyntaxUID", None)
            declared = [int(data.get(name, default)) for name, default in DECLARED]
            content = bytes(data.PixelData)
            swapped, compressed = _order(syntax)
            slope, intercept = (float(data.get(name, default)) for name, default in RESCALING)
        except Exception as error:  # a damaged file makes pydicom raise almost anything
            if fault := system_fault(error):
                raise DataError(f"{file}: {fault}") from error
            raise DataError(_unreadable(file, type(error).__name__)) from error
        rows, columns, bits, stored, samples, frames = declared
        if bits not in BITS or not 1 <= stored <= bits or min(rows, columns, samples, frames) < 1:
            raise DataError(
                f"{file}: its header declares {columns} x {rows} pixels of {stored} in {bits} bits, which no picture "
                "has; export it again"
            )
        if bits > MOST_BITS_SWAPPED and swapped:
            raise DataError(
                f"{file}: pixels of {bits} bits in big endian, which every reader takes otherwise; export it in little "
                "endian"
            )
        if not math.isfinite(slope * intercept) or slope == 0:
            raise DataError(f"{file}: its values are to be rescaled by {slope} and {intercept}; export it again")
        if not compressed:
            expected = rows * columns * samples * frames * bits // 8
            if not expected <= len(content) <= expected + PADDING:
                raise DataError(_unreadable(file, f"its header declares {expected} bytes, and it holds {len(content)}"))
            return
        try:
            parts = list(_frames(content, frames))
            sizes = [_size_in_bytes(part) if syntax == RLE else _size_in_pixels(part) for part in parts]
        except Exception as error:
            raise DataError(_unreadable(file, type(error).__name__)) from error
    wanted = rows * columns * samples * bits // 8 if syntax == RLE else (columns, rows)
    if len(parts) != frames or any(size is not None and size != wanted for size in sizes):
        raise DataError(_unreadable(file, f"its header declares {wanted}, its compressed pixels say {sizes[:1]}"))


def _order(syntax: Any) -> tuple[bool, bool]:
    """Of a transfer syntax: whether numbers are big endian, and whether each picture is packed by itself."""
    return syntax == BIG_ENDIAN, syntax is not None and syntax not in PLAIN


def _unreadable(file: str | os.PathLike[str], why: str) -> str:
    return f"{file}: its pixels cannot be read, it looks truncated or damaged ({why}); copy it again, or export it anew"


def _frames(content: bytes, count: int) -> Iterator[bytes]:
    encaps = importlib.import_module("pydicom.encaps")
    if hasattr(encaps, "generate_frames"):
        yield from encaps.generate_frames(content, number_of_frames=count)
    else:  # pydicom 2
        yield from encaps.generate_pixel_data_frame(content, count)


def _size_in_pixels(frame: bytes) -> tuple[int, int] | None:
    """Columns and rows that a JPEG, JPEG-LS or JPEG 2000 stream states itself; None for others."""
    if frame.startswith(JPEG_2000_START):
        right, lower, left, upper = struct.unpack(">4I", frame[8:24])
        return right - left, lower - upper
    if not frame.startswith(JPEG_START):
        return None
    place = 2
    while place + 9 <= len(frame):
        marker, length = struct.unpack(">HH", frame[place : place + 4])
        if marker in FRAME_HEADERS:
            rows, columns = struct.unpack(">HH", frame[place + 5 : place + 9])
            return columns, rows
        place += 2 + length
    raise ValueError("no frame header")


def _size_in_bytes(frame: bytes) -> int:
    """Of the pixels of an RLE frame (DICOM PS3.5, annex G) when it is unpacked."""
    count, *starts = struct.unpack("<16I", frame[:64])
    if not 1 <= count <= 15:
        raise ValueError("no RLE header")
    ends = [*starts[1:count], len(frame)]
    lengths = [_unpacked(frame[start:end]) for start, end in zip(starts[:count], ends, strict=True)]
    if len(set(lengths)) > 1:
        raise ValueError("segments of several lengths")
    return sum(lengths)


def _unpacked(segment: bytes) -> int:
    total, place = 0, 0
    while place < len(segment) - 1:
        control = segment[place]
        if control < 128:
            total, place = total + control + 1, place + control + 2
        elif control == 128:
            place += 1
        else:
            total, place = total + 257 - control, place + 2
    return total
