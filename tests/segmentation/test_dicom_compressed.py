"""Series as archives store them, compressed without loss."""

from unittest.mock import patch

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import INTERCEPT, slice_of, stored
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import HTJ2KLossless, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from aps_components.data import DataError
from aps_components.segmentation.dicom import find_series, read_series

SLICES = 3


def by_itk(name):
    """Frames by the writer of ITK, which has the codec of the same name."""

    def encode(values, folder):
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetUseCompression(True)
        writer.SetCompressor(name)
        writer.SetFileName(str(folder / "frame.dcm"))
        writer.Execute(sitk.GetImageFromArray(values))
        data = dcmread(folder / "frame.dcm")
        assert data.file_meta.TransferSyntaxUID == {"JPEG": JPEGLosslessSV1, "JPEG2000": JPEG2000Lossless}[name]
        return next(generate_frames(data.PixelData, number_of_frames=1))

    return encode


def by_charls(values, _):
    return bytes(pytest.importorskip("jpeg_ls", reason="no encoder of JPEG-LS is installed").encode(values))


def by_pydicom(values, _):
    data = slice_of(values.T, 0)
    data.compress(RLELossless)
    return next(generate_frames(data.PixelData, number_of_frames=1))


CODECS = {
    RLELossless: by_pydicom,
    JPEGLosslessSV1: by_itk("JPEG"),
    JPEG2000Lossless: by_itk("JPEG2000"),
    JPEGLSLossless: by_charls,
}


def write(folder, tmp_path, syntax, encode):
    folder.mkdir()
    for z in range(SLICES):
        frame = encode(np.ascontiguousarray(stored()[..., z].T).astype(np.uint16), tmp_path)
        data = slice_of(stored()[..., z], z, PixelData=encapsulate([frame]))
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = syntax
        data.save_as(folder / f"IM{z}", enforce_file_format=True)
    return folder


def voxels(folder):
    (series,) = find_series(folder)
    return read_series(series)[0]


@pytest.mark.parametrize("syntax", CODECS, ids=lambda syntax: syntax.name.split("(")[0].strip())
@pytest.mark.parametrize("preamble", [True, False], ids=["with preamble", "without"])
def test_a_compressed_series_has_the_same_values(tmp_path, syntax, preamble):
    folder = write(tmp_path / "series", tmp_path, syntax, CODECS[syntax])
    for file in [] if preamble else folder.iterdir():
        file.write_bytes(file.read_bytes()[132:])
    np.testing.assert_array_equal(voxels(folder), stored()[..., :SLICES].astype(int) + INTERCEPT)


def without_gdcm():
    """As if GDCM did not know the compression."""
    return patch("SimpleITK.ImageFileReader.Execute", side_effect=RuntimeError("cannot read"))


def test_what_gdcm_does_not_know_is_unpacked_by_pydicom(tmp_path):
    pytest.importorskip("openjpeg", reason="pylibjpeg-openjpeg is not installed")
    folder = write(tmp_path / "series", tmp_path, HTJ2KLossless, by_itk("JPEG2000"))
    with without_gdcm():
        np.testing.assert_array_equal(voxels(folder), stored()[..., :SLICES].astype(int) + INTERCEPT)


@pytest.mark.parametrize(("syntax", "mend"), [(HTJ2KLossless, "pip install pylibjpeg"), ("1.2.3.4", "uncompressed")])
def test_a_missing_decoder_is_named_with_the_mend(tmp_path, syntax, mend):
    folder = write(tmp_path / "series", tmp_path, HTJ2KLossless, by_itk("JPEG2000"))
    for file in folder.iterdir():
        padded = str(syntax).encode().ljust(len(HTJ2KLossless) + 1, b"\0")
        file.write_bytes(file.read_bytes().replace(HTJ2KLossless.encode() + b"\0", padded))
    absent = patch("pydicom.dataset.Dataset.pixel_array", side_effect=RuntimeError("no plugin"), new_callable=Raising)
    with without_gdcm(), absent, pytest.raises(DataError) as error:
        voxels(folder)
    assert f"{folder / 'IM0'}: its pixels are compressed by" in str(error.value)
    assert mend in str(error.value)


class Raising:
    """Of an attribute that cannot be had."""

    def __init__(self, side_effect):
        self.error = side_effect

    def __get__(self, *_):
        raise self.error
