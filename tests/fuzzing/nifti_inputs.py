"""NIfTI files with odd headers and damaged bodies, and a decoder by hand, from the standard's table of bytes alone.

https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h and .../nifti2/nifti2.h.
"""

import gzip
import math
import random
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from claims import Outcome, Violation, agree, cut, flipped, through

from aps_components.data import LoadVolumed
from aps_components.data.checks import check_cases
from aps_components.data.geometry import Geometry
from aps_components.data.identity import digest_of
from aps_components.data.nifti import Scan, read_geometry, read_header, read_scan, write_like
from aps_components.label_server.label_check import check_label
from aps_components.segmentation.statistics import load_channels

# Code, numpy's letter and size.
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
OTHER_TYPES = (0, 1, 32, 128, 255, 1536, 1792, 2304, 3, -1, 30000)
INFINITE = math.inf, -math.inf, math.nan
PLACES = {  # name: place and letter in NIfTI-1, in NIfTI-2
    "dim": ((40, "8h"), (16, "8q")),
    "datatype": ((70, "h"), (12, "h")),
    "bitpix": ((72, "h"), (14, "h")),
    "pixdim": ((76, "8f"), (104, "8d")),
    "vox_offset": ((108, "f"), (168, "q")),
    "slope": ((112, "f"), (176, "d")),
    "inter": ((116, "f"), (184, "d")),
    "qform_code": ((252, "h"), (344, "i")),
    "sform_code": ((254, "h"), (348, "i")),
    "quaternion": ((256, "3f"), (352, "3d")),
    "qoffset": ((268, "3f"), (376, "3d")),
    "srow": ((280, "12f"), (400, "12d")),
    "unit": ((123, "b"), (500, "i")),
}
MAGIC = ((344, b"n+1\0"), (4, b"n+2\0\r\n\x1a\n"))
SIZES = 348, 540
UNITS = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
LARGEST = float(np.finfo(np.float32).max)


def make(folder: Path, draw: random.Random) -> Path:
    """Write one file."""
    version, order = draw.randrange(2), draw.choice("<>")
    fields, magic, padding = _fields(draw, version)
    size = SIZES[version]
    header = bytearray(size)
    header[:4] = struct.pack(order + "i", size)
    for name, values in fields.items():
        place, letters = PLACES[name][version]
        struct.pack_into(order + letters, header, place, *_fitting(values, letters))
    place, standard = MAGIC[version]
    header[place : place + len(standard)] = standard if magic is None else magic.ljust(len(standard), b"\0")
    header[148 if version == 0 else 240 :][:9] = b"DOE^JANE\0"
    content = bytes(header) + bytes(padding) + _body(draw, fields, order)
    if draw.random() < 0.15:
        content = flipped(content, draw, until=size)
    if draw.random() < 0.1:
        content = cut(content, draw)
    if draw.random() < 0.05:
        content += draw.randbytes(draw.randint(1, 300))
    packed = draw.random() < 0.5
    if packed:
        content = _packed(content, draw)
    name = draw.choice(["a.nii.gz", "A.NII.GZ", "b c.nii.gz"] if packed else ["a.nii", "ü.nii"])
    if draw.random() < 0.03:
        name = "a.nii" if packed else "a.nii.gz"
    file = folder / name
    file.write_bytes(content)
    return file


def check(file: Path, draw: random.Random) -> bool:
    """Every door of a scan; whether it was accepted."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        truth = _decoded(file.read_bytes())
        scan = through(lambda: read_scan(file), names=[file])
        geometry = through(lambda: read_geometry(file), names=[file])
        agree(scan.refused or not geometry.refused, f"header refused, scan taken: {geometry.said}")
        if not scan.refused:
            _compare(scan.value, truth)
            _compare_written(file, scan.value)
        _doors(file, scan, geometry)
        return not scan.refused


def _doors(file: Path, scan: Outcome, geometry: Outcome) -> None:
    """What stands before and behind the one reader must not say another thing."""
    channels = 1 if geometry.refused else geometry.value.channels
    loaded = through(lambda: LoadVolumed(in_channels=channels)({"image": str(file)}), names=[file])
    agree(loaded.refused or not scan.refused, "LoadVolumed takes what the reader refuses")
    if not loaded.refused:
        image = loaded.value["image"]
        values = scan.value.voxels if scan.value.voxels.ndim == 4 else scan.value.voxels[..., None]
        expected = np.moveaxis(values, 3, 0).astype(np.float32)
        agree(np.array_equal(image.numpy(), expected), "LoadVolumed gives other voxels")
        agree(np.array_equal(image.affine.numpy(), scan.value.geometry.affine), "LoadVolumed gives another affine")
    item = {"image": str(file), "label": str(file)}
    checked = through(lambda: check_cases([item], num_classes=3, progress=False), names=[file])
    agree(checked.refused or not scan.refused, "the checks take a label that the reader refuses")
    if not checked.refused:
        label = through(lambda: LoadVolumed(num_classes=3)(item), names=[file])
        if not label.refused:  # such as a constant one
            found = label.value["label"].numpy()[0]
            agree(np.array_equal(found, np.rint(scan.value.voxels.reshape(found.shape))), "another label")
    statistics = through(lambda: load_channels([str(file)], None), names=[file])
    agree(statistics.refused == scan.refused, "statistics and reader do not agree")
    identity = through(lambda: digest_of([{"image": str(file)}]), names=[file])
    agree(scan.refused or not identity.refused, f"no identity of a sound scan: {identity.said}")
    _server_door(file, scan)


def _server_door(file: Path, scan: Outcome) -> None:
    """A label that is to be stored beside its scan, here itself."""
    sent = through(lambda: check_label(file, file, values={0, 1, 2}), names=["label", "scan", file])
    agree(sent.refused or not scan.refused, "the server stores a label that the reader refuses")


def _fields(draw: random.Random, version: int) -> tuple[dict[str, Any], bytes | None, int]:
    """Mostly sound ones; each is odd now and then."""

    def odd(share: float = 0.06) -> bool:
        return draw.random() < share

    shape = [draw.choice([1, 2, 3, 5, 7, 11]) for _ in range(draw.choice([3, 3, 3, 3, 4, 5, 2]))]
    if len(shape) == 5:
        shape[4] = draw.choice([1, 1, 2])
    dim = [len(shape), *shape, *[1] * (7 - len(shape))]
    if odd():
        dim[draw.randrange(8)] = draw.choice([0, -1, 8, 7, 32767, 20000, 2**40 if version else 30000, -32768])
    code = draw.choice(list(TYPES)) if not odd() else draw.choice(OTHER_TYPES)
    sizes = [draw.choice([0.5, 0.7, 1.0, 2.5, 3.0]) for _ in range(3)]
    if odd(0.1):
        sizes[draw.randrange(3)] = draw.choice([0.0, -2.0, 1e-4, 0.01, 1e4, 12.0, 30.0, *INFINITE])
    unit = draw.choice([0, 2, 2, 2, 10]) if not odd(0.1) else draw.choice([1, 3, 4, 7, 18, 127, -1])
    scale = 1 / UNITS.get(unit & 7, 1.0) if not odd(0.1) else 1.0
    matrix = _matrix(draw, sizes, scale)
    if odd():
        matrix[draw.randrange(12)] = draw.choice([0.0, 1e10, 1e-10, *INFINITE])
    quaternion = [draw.uniform(-0.5, 0.5) for _ in range(3)] if not odd() else [draw.choice([1.5, *INFINITE]), 0, 0]
    padding = 4 if not odd() else draw.choice([0, 20, 36, 340])
    offset = SIZES[version] + padding
    if odd(0.1):
        offset = draw.choice([0, 1, 100, offset - 0.5, offset + 0.5, offset + 16, -1, 1e9, 352, *INFINITE])
    slopes = [0.0, 1.0, 1.0, 2.5, -0.5] if not odd(0.1) else [1e-30, 1e38, 5e-39, *INFINITE]
    fields = {
        "dim": dim,
        "datatype": [code],
        "bitpix": [np.dtype(TYPES.get(code, "u1")).itemsize * 8 if not odd() else draw.choice([0, 1, 7, 512])],
        "pixdim": [draw.choice([1.0, -1.0, 0.0]) if not odd() else draw.choice([2.0, -3.0, *INFINITE])]
        + [size * scale for size in sizes]
        + [1.0, 0.0, 1.0, 0.0],
        "vox_offset": [offset],
        "slope": [draw.choice(slopes)],
        "inter": [draw.choice([0.0, 0.0, -1024.0, 3.5]) if not odd() else draw.choice([1e38, *INFINITE])],
        "qform_code": [draw.randrange(6) if not odd() else draw.choice([-1, 6, 99, 32767])],
        "sform_code": [draw.randrange(6) if not odd() else draw.choice([-1, 6, 99, 32767])],
        "quaternion": quaternion,
        "qoffset": [draw.uniform(-100, 100) * scale for _ in range(3)],
        "srow": matrix,
        "unit": [unit],
    }
    magic = None if not odd(0.03) else draw.choice([b"ni1", b"ni2", b"", b"n+1", b"n+2", b"n+9"])
    return fields, magic, padding


def _matrix(draw: random.Random, sizes: list[float], scale: float) -> list[float]:
    order = draw.sample(range(3), 3)
    matrix = np.zeros((3, 4))
    for axis, row in enumerate(order):
        matrix[row, axis] = draw.choice([-1, 1]) * sizes[axis] * scale
    matrix[:, 3] = [draw.uniform(-100, 100) * scale for _ in range(3)]
    if draw.random() < 0.2:
        matrix[:, 1] += draw.choice([0.1, 0.5, 1.0]) * matrix[:, 0]
    return [float(value) for value in matrix.ravel()]


def _fitting(values: list[Any], letters: str) -> list[Any]:
    """Numbers that the field can hold."""
    kind = letters[-1]
    if kind in "fd":
        return [float(value) for value in values]
    bits = {"b": 8, "h": 16, "i": 32, "q": 64}[kind]
    whole = [int(value) if math.isfinite(value) else 0 for value in values]
    return [max(-(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, value)) for value in whole]


def _body(draw: random.Random, fields: dict[str, Any], order: str) -> bytes:
    count = math.prod(size for size in fields["dim"][1 : 1 + fields["dim"][0]])
    letters = TYPES.get(fields["datatype"][0], "c16")
    count = count if 0 < count < 20_000 else 200
    if draw.random() < 0.3:  # as of a label map
        values = np.array([draw.randrange(3) for _ in range(count)])
    else:
        values = np.frombuffer(draw.randbytes(count), dtype=np.uint8).astype(float) - (100 if letters[0] in "if" else 0)
    if letters[0] == "f" and draw.random() < 0.1:
        values = values.astype(float)
        values[draw.randrange(count)] = draw.choice([1e20, 1e38, *INFINITE])
    return values.astype(np.dtype(letters).newbyteorder(order)).tobytes()


def _packed(content: bytes, draw: random.Random) -> bytes:
    packed = gzip.compress(content, draw.randrange(10), mtime=0)
    kind = draw.random()
    if kind < 0.08:  # its checksum, or the length that it states
        place = len(packed) - draw.randint(1, 8)
        return packed[:place] + bytes([packed[place] ^ (1 << draw.randrange(8))]) + packed[place + 1 :]
    if kind < 0.16:
        return flipped(packed, draw)
    if kind < 0.22:
        return cut(packed, draw)
    if kind < 0.27:
        half = len(content) // 2
        return gzip.compress(content[:half], mtime=0) + gzip.compress(content[half:], mtime=0)
    if kind < 0.32:
        return packed + draw.choice([bytes(7), draw.randbytes(9), packed])
    if kind < 0.34:
        return gzip.compress(packed, mtime=0)
    return packed


def _unpacked(content: bytes) -> bytes | None:
    """By zlib, member after member, checksums and all; None where it is damaged."""
    if not content.startswith(b"\x1f\x8b"):
        return content
    parts = []
    while content:
        member = zlib.decompressobj(31)
        try:
            parts.append(member.decompress(content))
        except zlib.error:
            return None
        if not member.eof:
            return None
        content = member.unused_data.lstrip(b"\0")
    return b"".join(parts)


def _decoded(content: bytes) -> dict[str, Any] | None:
    """What a file says by the standard; None where it says nothing."""
    unpacked = _unpacked(content)
    if unpacked is None or len(unpacked) < 4:
        return None
    found = [
        (version, order)
        for version, size in enumerate(SIZES)
        for order in "<>"
        if struct.unpack(order + "i", unpacked[:4])[0] == size
    ]
    if not found or len(unpacked) < SIZES[found[0][0]]:
        return None
    version, order = found[0]
    fields: dict[str, Any] = {}
    for name, places in PLACES.items():
        place, letters = places[version]
        values = struct.unpack_from(order + letters, unpacked, place)
        fields[name] = values if len(values) > 1 else values[0]
    fields["affine"] = _affine(fields)
    fields["voxels"] = _voxels(fields, unpacked, order, version)
    return fields


def _voxels(fields: dict[str, Any], content: bytes, order: str, version: int) -> np.ndarray | None:
    letters, count = TYPES.get(fields["datatype"]), fields["dim"][0]
    if letters is None or not 1 <= count <= 7 or min(fields["dim"][1 : count + 1]) < 1:
        return None
    shape = fields["dim"][1 : count + 1]
    offset = fields["vox_offset"]
    if not math.isfinite(offset) or offset != int(offset):
        return None
    offset = int(offset) or SIZES[version] + 4
    kind = np.dtype(letters).newbyteorder(order)
    size = math.prod(shape) * kind.itemsize
    if offset < SIZES[version] or len(content) < offset + size:
        return None
    values = np.frombuffer(content, dtype=kind, count=math.prod(shape), offset=offset).reshape(shape, order="F")
    slope, inter = fields["slope"], fields["inter"]
    if slope == 0 or not math.isfinite(slope):
        return values.astype(np.float64)
    if not math.isfinite(inter):
        return None
    return values.astype(np.float64) * slope + inter


def _affine(fields: dict[str, Any]) -> np.ndarray | None:
    scale = np.diag([*[UNITS.get(fields["unit"] & 7, 1.0)] * 3, 1.0])
    affine = np.eye(4)
    sizes = np.array(fields["pixdim"][1:4])
    if fields["sform_code"] > 0:
        affine[:3] = np.reshape(fields["srow"], (3, 4))
    elif fields["qform_code"] > 0:
        b, c, d = fields["quaternion"]
        a = math.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
        turn = [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
        factor = -1.0 if fields["pixdim"][0] < 0 else 1.0
        affine[:3, :3] = np.array(turn) @ np.diag(sizes * [1, 1, factor])
        affine[:3, 3] = fields["qoffset"]
    else:
        affine[:3, :3] = np.diag(sizes * [-1, 1, 1])
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(fields["dim"][1:4]) - 1) / 2)
    return scale @ affine


def _compare(scan: Scan, truth: dict[str, Any] | None) -> None:
    agree(truth is not None, "accepted, and its bytes say nothing")
    voxels = truth["voxels"]  # type: ignore[index]
    agree(voxels is not None, "accepted, and its voxels are not there")
    expected = voxels.reshape(scan.voxels.shape)
    found = scan.voxels.astype(np.float64)
    beyond = np.abs(expected) > LARGEST
    same = np.isclose(found, expected, rtol=1e-5, atol=1e-30, equal_nan=True)
    agree(bool((same | (beyond & np.isinf(found))).all()), "other voxels than its bytes say")
    agree(np.allclose(scan.geometry.affine, truth["affine"], rtol=1e-4, atol=1e-3), "another place than it says")  # type: ignore[index]
    _plausible(scan.geometry)


def _plausible(geometry: Geometry) -> None:
    agree(bool(np.isfinite(geometry.affine).all()), "an affine that is no number")
    agree(abs(np.linalg.det(geometry.affine[:3, :3])) > 0, "an affine without inverse")


def _compare_written(file: Path, scan: Scan) -> None:
    """A map of it lies where it does, for nibabel and for ITK."""
    label = file.parent / "written_seg.nii.gz"
    write_like(label, np.zeros(scan.geometry.shape, np.uint8), read_header(file))
    back = read_geometry(label)
    agree(np.allclose(back.affine, scan.geometry.affine, atol=1e-6, rtol=1e-6), "its map lies elsewhere, as read here")
    places = [_in_itk(one) for one in (file, label)]
    if None not in places and len(places[0]) == len(places[1]):  # type: ignore[arg-type]
        agree(np.allclose(*places, atol=1e-6, rtol=1e-6), "its map lies elsewhere in ITK")  # type: ignore[misc]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = nib.load(label)
    agree(written.shape == scan.geometry.shape, "its map has another shape")
    label.unlink()


def _in_itk(file: Path) -> list[float] | None:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    reader.SetImageIO("NiftiImageIO")
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    count = reader.GetDimension()
    if count < 3:
        return None
    matrix = np.reshape(reader.GetDirection(), (count, count))[:3, :3]
    return [*reader.GetOrigin()[:3], *reader.GetSpacing()[:3], *matrix.ravel()]


__all__ = ["Violation", "check", "make"]
