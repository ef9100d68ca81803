"""DICOM files that declare what they do not hold, and what lies beside a scan: one series fails, the others do not."""

import os
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import INTERCEPT, ROW, lps, slice_of, stored, write_series
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from aps_components.data import DataError
from aps_components.segmentation import find_cases
from aps_components.segmentation.dicom import find_series, is_dicom, read_series

SMALL = (17, 24, 5)
UNDEFINED = b"\x10\x00\x20\x00ZZ\x04\x00abcd"  # PatientID, of a type of value that there is not


def scan(folder, **changes):
    return write_series(folder, shape=SMALL, **changes)


def beside(folder, name="9", **changes):
    """A slice of another series."""
    one = slice_of(stored()[..., 0], 0, **{"SeriesInstanceUID": "1.2.9", "SeriesNumber": 9, **changes})
    folder.mkdir(parents=True, exist_ok=True)
    one.save_as(folder / name, enforce_file_format=True)
    return folder / name


def refusals(folder):
    """Of each series that cannot be read, by number."""
    found = {}
    for series in find_series(folder):
        if series.no_volume is None:
            try:
                read_series(series)
            except DataError as error:
                found[series.number] = str(error)
    return found


def change_one(folder, **changes):
    """In the second slice of a series of three."""
    for z in range(3):
        one = slice_of(stored()[..., z], z, SeriesInstanceUID="1.2.5", SeriesNumber=5, **(changes if z == 1 else {}))
        folder.mkdir(exist_ok=True)
        one.save_as(folder / str(z), enforce_file_format=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"Columns": 34},
        {"Rows": 48},
        {"Rows": 12},
        {"Columns": 34, "Rows": 12, "BitsAllocated": 32, "BitsStored": 32, "HighBit": 31},
        {"BitsAllocated": 32},
        {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7},
        {"BitsAllocated": 12, "BitsStored": 12},
        {"BitsStored": 24},
        {"BitsAllocated": 0},
        {"PixelData": b""},
        {"PixelData": b"\x00" * 100},
        {"PixelData": b"\x00" * 10_000},
        {"RescaleSlope": 0},
        {"RescaleSlope": "NaN"},
        {"RescaleIntercept": "Inf"},
    ],
)
def test_pixels_that_are_not_there_are_not_made_up(tmp_path, changes):
    """All slices of the series say the same, so that nothing else gives it away."""
    scan(tmp_path / "sound")
    for z in range(3):
        one = slice_of(stored()[..., z], z, SeriesInstanceUID="1.2.5", SeriesNumber=5, **changes)
        (tmp_path / "other").mkdir(exist_ok=True)
        one.save_as(tmp_path / "other" / str(z), enforce_file_format=True)
    (refusal,) = refusals(tmp_path).items()
    assert refusal[0] == 5
    assert str(tmp_path / "other") in refusal[1]


def test_pixels_in_a_compressed_file_count_too(tmp_path):
    for z in range(3):
        one = slice_of(stored()[..., z], z)
        one.compress(RLELossless)
        one.Columns = 34
        one.save_as(tmp_path / str(z), enforce_file_format=True)
    assert "its pixels cannot be read" in refusals(tmp_path)[3]


def jpeg(columns, rows):
    """The head of a lossless JPEG stream, which states its own size."""
    frame = b"\xff\xc3" + (11).to_bytes(2, "big") + b"\x10" + rows.to_bytes(2, "big") + columns.to_bytes(2, "big")
    return b"\xff\xd8\xff\xe0\x00\x04ab" + frame + b"\x01\x01\x11\x00" + b"\xff\xd9"


def test_a_compressed_stream_that_states_another_size(tmp_path):
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGLosslessSV1

    for z in range(3):
        one = slice_of(stored()[..., z], z)
        one.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        one.PixelData = encapsulate([jpeg(17, 23)])
        one["PixelData"].is_undefined_length = True
        one.save_as(tmp_path / str(z), enforce_file_format=True)
    assert "(17, 23)" in refusals(tmp_path)[3]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"PixelSpacing": ["NaN", "0.7"]}, "pixel spacing"),
        ({"PixelSpacing": ["0.9", "Inf"]}, "pixel spacing"),
        ({"PixelSpacing": [0, 0.7]}, "pixel spacing"),
        ({"PixelSpacing": [-0.9, 0.7]}, "pixel spacing"),
        ({"ImagePositionPatient": ["0", "NaN", "0"]}, "position"),
        ({"ImagePositionPatient": ["0", "0", "-Inf"]}, "position"),
        ({"ImageOrientationPatient": ["1", "0", "0", "0", "NaN", "0"]}, "orientation"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "perpendicular|directions"),
    ],
)
def test_numbers_that_are_none_fail_their_series_alone(tmp_path, changes, said):
    scan(tmp_path / "sound")
    change_one(tmp_path / "other", **changes)
    refusal = refusals(tmp_path)
    assert list(refusal) == [5]
    assert re.search(said, refusal[5])


@pytest.mark.parametrize("number", ["abc", "1.5", "", "9" * 30])
def test_a_series_number_that_is_none_costs_its_name_alone(tmp_path, number):
    scan(tmp_path)
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        start = content.index(b"\x20\x00\x11\x00IS")
        length = int.from_bytes(content[start + 6 : start + 8], "little")
        text = number.encode() + b" " * (len(number) % 2)
        head = content[: start + 6] + len(text).to_bytes(2, "little") + text
        file.write_bytes(head + content[start + 8 + length :])
    (series,) = find_series(tmp_path)
    voxels, _ = read_series(series)
    np.testing.assert_array_equal(voxels, stored(SMALL).astype(int) + INTERCEPT)


def test_an_unknown_type_of_value_fails_no_other_series(tmp_path):
    scan(tmp_path / "sound")
    file = beside(tmp_path / "other")
    content = file.read_bytes()
    start = content.index(b"\x10\x00\x20\x00LO")
    file.write_bytes(content[:start] + UNDEFINED + content[start + 12 :])
    assert 3 not in refusals(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"\x00" * 500, b"<html>not found</html>"])
@pytest.mark.parametrize("z", [0, 2, 4])
def test_a_damaged_slice_is_not_dropped_in_silence(tmp_path, damage, z):
    """Of the first or last one no gap tells."""
    scan(tmp_path / "sound", SeriesInstanceUID="1.2.8", SeriesNumber=8)
    folder = scan(tmp_path / "other")
    (series,) = find_series(folder)
    order = sorted(series.slices, key=lambda part: part.position[2])
    Path(order[z].file).write_bytes(damage)
    refusal = refusals(tmp_path)
    assert list(refusal) == [3]
    assert order[z].file in refusal[3]


def test_a_text_beside_the_slices_is_no_slice(tmp_path):
    scan(tmp_path)
    (tmp_path / "README").write_text("of 2024")
    (tmp_path / "notes 2.txt").write_text("no DICOM")
    assert refusals(tmp_path) == {}


@pytest.mark.timeout(60)
def test_pipes_and_sockets_are_nothing_to_wait_for(tmp_path, monkeypatch):
    scan(tmp_path)
    os.mkfifo(tmp_path / "IM0099")
    os.mkfifo(tmp_path / "x.dcm")
    (tmp_path / "zero.dcm").symlink_to("/dev/zero")
    (tmp_path / "nowhere.dcm").symlink_to(tmp_path / "none")
    monkeypatch.chdir(tmp_path)  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as place:
        place.bind("socket.dcm")
        assert len(find_series(tmp_path)) == 1


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("with_meta", [True, False])
def test_files_without_preamble_are_read(tmp_path, syntax, with_meta):
    for z in range(4):
        one = slice_of(stored()[..., z], z)
        one.file_meta.TransferSyntaxUID = syntax
        one.save_as(tmp_path / str(z), enforce_file_format=True)
        content = (tmp_path / str(z)).read_bytes()[132:]
        if not with_meta:
            if syntax == ExplicitVRLittleEndian:
                pytest.skip("nothing says then that the types of values are written")
            length = int.from_bytes(content[8:12], "little")
            content = content[12 + length :]
        (tmp_path / str(z)).write_bytes(content)
    assert is_dicom(tmp_path / "0")
    (series,) = find_series(tmp_path)
    voxels, _ = read_series(series)
    np.testing.assert_array_equal(voxels, stored()[..., :4].astype(int) + INTERCEPT)


def report(folder, modality):
    """An object without pictures."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.11", f"1.2.{len(modality)}.7"
    data.SeriesInstanceUID, data.SeriesNumber, data.Modality = f"1.2.77.{ord(modality[0])}", 70, modality
    data.SeriesDescription = f"of {modality}"
    data.save_as(folder / f"R{modality}", enforce_file_format=True)


def test_what_is_no_scan_is_left_out_with_a_note(tmp_path):
    scan(tmp_path)
    for number, modality in enumerate(("SEG", "RTDOSE"), start=50):
        changes = {
            "SeriesInstanceUID": f"1.2.{number}",
            "SeriesNumber": number,
            "NumberOfFrames": 3,
            "Modality": modality,
        }
        beside(tmp_path, modality, **changes)
    for modality in ("SR", "KO", "PLAN"):
        report(tmp_path, modality)
    inputs = find_cases(tmp_path)
    assert [case.name for case in inputs.cases] == ["003_t1_axial_gd"]
    said = "; ".join(inputs.left_out)
    assert all(f"({modality})" in said for modality in ("SEG", "RTDOSE", "SR", "KO", "PLAN"))


def test_where_nothing_can_be_read_the_first_reason_is_given(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.dcm: not DICOM"):
        find_series(tmp_path)
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("z", [1, 3])
@pytest.mark.parametrize("off", [0.5, -20.0])
def test_a_slice_beside_the_line_of_the_others_is_not_taken(tmp_path, z, off):
    """Its height is right: nothing is missing, doubled or uneven."""
    scan(tmp_path)
    moved = [round(float(value), 6) for value in lps(0, 0, z) + off * np.array(ROW)]
    for file in tmp_path.rglob("*"):
        if file.is_file() and (one := pydicom.dcmread(file)).SOPInstanceUID == f"1.2.3.4.{z + 1}":
            one.ImagePositionPatient = moved
            one.save_as(file)
    assert f"{abs(off):.2f} mm beside the line" in "".join(refusals(tmp_path).values())


def test_pixels_of_two_words_in_big_endian_are_refused(tmp_path):
    """The two libraries that read them give other numbers."""
    for z in range(3):
        one = slice_of(stored()[..., z], z, BitsAllocated=32, BitsStored=32, HighBit=31)
        one.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        one.PixelData = np.ascontiguousarray(stored()[..., z].T).astype(">u4").tobytes()
        one.save_as(tmp_path / str(z), enforce_file_format=True)
    (said,) = refusals(tmp_path).values()
    assert "32 bits in big endian" in said


def test_an_unknown_transfer_syntax_is_named(tmp_path):
    for z in range(3):
        one = slice_of(stored()[..., z], z)
        one.file_meta.TransferSyntaxUID = UID("1.2.3.4.5.6")
        one.save_as(tmp_path / str(z), enforce_file_format=True, implicit_vr=False, little_endian=True)
    (said,) = refusals(tmp_path).values()
    assert str(tmp_path) in said
