"""DICOM series with every kind of gap and damage, and a decoder by hand from the bytes that pydicom finds."""

import math
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from claims import agree, cut, flipped, through
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from aps_components.segmentation.dicom import Series, find_series, read_series, series_names

SYNTAXES = [ExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]
TURN = np.array([[0.8, 0.36, 0.48], [-0.6, 0.48, 0.64]])
STRAIGHT = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
TAGS = [
    *["Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"],
    *["PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SeriesNumber", "SeriesInstanceUID"],
    *["RescaleSlope", "RescaleIntercept", "NumberOfFrames", "Modality", "SeriesDescription", "SOPClassUID"],
    *["PixelData", "PhotometricInterpretation"],
]
STRAIGHTENED = 0.005  # sideways per length of a stack, from which on it is put upright
ODD_TEXTS = ["nan", "inf", "0", "-1", "", "abc", "1e400", "0.000001", "99999"]


def make(folder: Path, draw: random.Random) -> Path:
    """Write one series, or several."""
    place = folder / "series"
    place.mkdir()
    slices = _series(draw, "1.2.3.4")
    if draw.random() < 0.1:
        slices += _series(draw, "1.2.3.5")
    kind = draw.choice([_nothing, _missing, _doubled, _moved, _one_odd, _all_odd, _mixed, _nothing])
    slices = kind(slices, draw)
    files = [_written(place / f"IM{index:04d}", one) for index, one in enumerate(slices)]
    for file in files:
        if not file.exists():
            continue
        if draw.random() < 0.03:
            content = file.read_bytes()
            file.write_bytes(draw.choice([cut, flipped, _of_its_header])(content, draw))
        if draw.random() < 0.01:
            file.write_bytes(file.read_bytes()[132:])  # no preamble
    return place


def check(folder: Path, draw: random.Random) -> bool:
    """Find the series and read each; whether one was accepted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = through(lambda: find_series(folder), names=[folder])
        if found.refused:
            return False
        series_names(found.value)
        accepted = False
        for series in found.value:
            if series.no_volume is None:
                read = through(lambda series=series: read_series(series), names=[folder])
                if not read.refused:
                    accepted = True
                    _compare(series, *read.value)
        _none_lost(folder, found.value)
        return accepted


def _series(draw: random.Random, uid: str) -> list[Dataset]:
    columns, rows, count = (*draw.choice([(5, 7), (8, 8), (7, 3)]), draw.choice([2, 3, 5, 8]))
    directions = draw.choice([STRAIGHT, TURN, -STRAIGHT])
    normal = np.cross(*directions)
    step, syntax = draw.choice([0.5, 1.0, 3.0]), draw.choice(SYNTAXES)
    bits = draw.choice([(16, 16), (16, 12), (8, 8), (32, 32)] if syntax != RLELossless else [(16, 16), (8, 8)])
    signed = draw.randrange(2)
    rescale = draw.choice([(1, 0), (1, -1024), (2.5, 3), ("varies", 0), (None, None)])
    slices = []
    for index in range(count):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = syntax
        one.file_meta.MediaStorageSOPClassUID, one.file_meta.MediaStorageSOPInstanceUID = (
            CTImageStorage,
            f"{uid}.{index}",
        )
        one.SOPClassUID, one.SOPInstanceUID, one.SeriesInstanceUID = CTImageStorage, f"{uid}.{index}", uid
        one.StudyInstanceUID, one.SeriesNumber, one.SeriesDescription = "1.2.3", 3, "T1 axial"
        one.Modality, one.PatientName = "CT", "Doe^Jane"
        one.Columns, one.Rows, one.SamplesPerPixel = columns, rows, 1
        one.PhotometricInterpretation = "MONOCHROME2"
        one.BitsAllocated, one.BitsStored = bits
        one.HighBit, one.PixelRepresentation = bits[1] - 1, signed
        if rescale[0] is not None:
            one.RescaleSlope = 1 + index / 10 if rescale[0] == "varies" else rescale[0]
            one.RescaleIntercept = rescale[1]
        one.PixelSpacing = [0.7, 0.9]
        one.ImageOrientationPatient = [round(float(value), 6) for value in directions.ravel()]
        position = np.array([11.5, -23.25, 37.0]) + index * step * normal
        one.ImagePositionPatient = [round(float(value), 6) for value in position]
        low = -(2 ** (bits[1] - 1)) if signed else 0
        values = np.array([draw.randrange(low, low + 2 ** min(bits[1], 24)) for _ in range(rows * columns)])
        values = (values & (2 ** bits[1] - 1)).astype(f"u{bits[0] // 8}")
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        one.PixelData = values.astype(values.dtype.newbyteorder(order)).tobytes()
        if syntax == RLELossless:
            one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            one.compress(RLELossless, generate_instance_uid=False)
        slices.append(one)
    draw.shuffle(slices)
    return slices


def _nothing(slices: list[Dataset], draw: random.Random) -> list[Dataset]:
    return slices


def _missing(slices: list[Dataset], draw: random.Random) -> list[Dataset]:
    return draw.sample(slices, max(1, len(slices) - draw.randint(1, 2)))


def _doubled(slices: list[Dataset], draw: random.Random) -> list[Dataset]:
    return [*slices, draw.choice(slices)]


def _moved(slices: list[Dataset], draw: random.Random) -> list[Dataset]:
    one = draw.choice(slices)
    place = list(map(float, one.ImagePositionPatient))
    place[draw.randrange(3)] += draw.choice([0.004, 0.05, 1.0, -20.0])
    one.ImagePositionPatient = [round(value, 6) for value in place]
    return slices


def _one_odd(slices: list[Dataset], draw: random.Random) -> list[Dataset]:
    _make_odd(draw.choice(slices), draw.choice(TAGS), draw)
    return slices


def _all_odd(slices: list[Dataset], draw: random.Random) -> list[Dataset]:
    tag, number = draw.choice(TAGS), draw.random()
    for one in slices:
        _make_odd(one, tag, random.Random(number))
    return slices


def _mixed(slices: list[Dataset], draw: random.Random) -> list[Dataset]:
    """As of two series under one number, or of one with a localizer."""
    other = draw.choice(_series(draw, "1.2.3.4"))
    return [*slices, other]


def _make_odd(one: Dataset, tag: str, draw: random.Random) -> None:
    if tag not in one or draw.random() < 0.25:
        one.pop(tag, None)
        return
    element = one[tag]
    if tag == "PixelData":
        content = element.value
        if "Modality" in one and one.file_meta.TransferSyntaxUID != RLELossless:
            element.value = draw.choice([content[:-2], content + bytes(2), content[: len(content) // 2], content * 2])
        return
    if element.VR == "US":
        values = [0, 1, 3, 7, 9, 12, 33, 64, 65535, int(element.value) * 2, int(element.value) + 1]
        element.value = draw.choice(values)
        return
    if element.VM > 1:
        parts: list[Any] = [str(part) for part in element.value]
        parts[draw.randrange(len(parts))] = draw.choice(ODD_TEXTS)
        _raw(one, tag, "\\".join(draw.choice([parts, parts[:-1], [*parts, "1"]])))
    else:
        _raw(one, tag, draw.choice([*ODD_TEXTS, "1\\2", "\x1b[2J"]))


def _raw(one: Dataset, tag: str, text: str) -> None:
    """Without pydicom's look at it."""
    element = pydicom.dataelem.RawDataElement(
        pydicom.tag.Tag(tag), one[tag].VR, len(text), text.encode().ljust(len(text) + len(text) % 2), 0, False, True
    )
    if one.file_meta.TransferSyntaxUID == ExplicitVRBigEndian:
        element = element._replace(is_little_endian=False)
    dict.__setitem__(one._dict, pydicom.tag.Tag(tag), element)


def _of_its_header(content: bytes, draw: random.Random) -> bytes:
    return content[:132] + flipped(content[132:], draw, until=600, most=1)


def _written(file: Path, one: Dataset) -> Path:
    syntax = one.file_meta.TransferSyntaxUID
    try:
        one.save_as(file, enforce_file_format=True)
    except Exception:  # what pydicom does not write is no input
        if syntax == ExplicitVRLittleEndian:
            file.write_bytes(bytes(128) + b"DICM" + bytes(40))
    return file


def _compare(series: Series, volume: np.ndarray, affine: np.ndarray) -> None:
    """With what pydicom reads of the same files."""
    parts = [pydicom.dcmread(part.file, force=True) for part in series.slices]
    row, column = np.reshape([float(value) for value in parts[0].ImageOrientationPatient], (2, 3))
    normal = np.cross(row, column)
    places = [np.array([float(value) for value in part.ImagePositionPatient]) for part in parts]
    order = np.argsort([place @ normal for place in places])
    expected = np.stack([_values(parts[index]) for index in order], axis=-1)
    agree(bool(np.isfinite(volume).all() and np.isfinite(affine).all()), "what is no number")
    along = places[order[-1]] - places[order[0]]
    if len(parts) == 1 or np.linalg.norm(np.cross(along, normal)) > STRAIGHTENED * np.linalg.norm(along):
        return  # several frames in a file, or a tilted gantry: both are resampled
    agree(volume.shape == expected.shape, "another shape than its slices have")
    agree(np.allclose(volume, expected, rtol=1e-5, atol=1e-3), "other voxels than its slices have")
    agree(np.isfinite(volume).all(), "voxels that are no numbers")
    between_rows, between_columns = map(float, parts[0].PixelSpacing)
    truth = np.eye(4)
    truth[:3, 0], truth[:3, 1], truth[:3, 3] = row * between_columns, column * between_rows, places[order[0]]
    truth[:3, 2] = (places[order[-1]] - places[order[0]]) / (len(order) - 1)
    truth[:2] *= -1
    agree(np.allclose(affine, truth, atol=1e-4), "another place than its slices have")
    agree(np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 0, "a place that is none")
    for index, one in enumerate(order):
        off = np.linalg.norm(places[one] - places[order[0]] - index * np.array(_step(truth)))
        agree(bool(off < 0.1 + 0.02 * float(np.linalg.norm(_step(truth)))), "a slice that lies elsewhere was taken")


def _step(affine: np.ndarray) -> list[float]:
    return [-affine[0, 2], -affine[1, 2], affine[2, 2]]


def _values(part: Dataset) -> np.ndarray:
    """Stored values of the standard, PS3.5 8.1.1: so many bits up to the highest, the others do not count."""
    bits, stored, high = (int(part.get(name, 0)) for name in ("BitsAllocated", "BitsStored", "HighBit"))
    if part.file_meta.TransferSyntaxUID == RLELossless:
        part.decompress(generate_instance_uid=False)
    order = ">" if part.file_meta.TransferSyntaxUID == ExplicitVRBigEndian else "<"
    count = int(part.Rows) * int(part.Columns)
    values = np.frombuffer(part.PixelData, dtype=f"{order}u{bits // 8}", count=count).astype(np.int64)
    values = (values >> (high + 1 - stored)) & (2**stored - 1)
    if int(part.get("PixelRepresentation", 0)) == 1:
        values = np.where(values >= 2 ** (stored - 1), values - 2**stored, values)
    slope, intercept = (
        float(part.get(name, default)) for name, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    agree(math.isfinite(slope) and math.isfinite(intercept), "rescaled by what is no number")
    return (values * slope + intercept).reshape(int(part.Rows), int(part.Columns)).T


def _none_lost(folder: Path, found: list[Series]) -> None:
    """Every file is a slice of a series, or why one cannot be read."""
    known = {part.file for series in found for part in series.slices}
    said = " ".join(part for series in found for part in (series.damaged, series.fault))
    for file in folder.iterdir():
        agree(str(file) in known or str(file) in said or not _has_rows(file), f"{file.name} is passed over")


def _has_rows(file: Path) -> bool:
    try:
        return "Rows" in pydicom.dcmread(file, force=True)
    except Exception:
        return True
