"""Pixels that GDCM, which comes with SimpleITK, does not unpack: pydicom does, where the packages for it are installed.

GDCM itself unpacks RLE, JPEG, lossless JPEG, JPEG-LS and JPEG 2000.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps_components.data import DataError
from aps_components.segmentation.dicom_pixels import PLAIN, RESCALING
from aps_components.segmentation.quiet import quiet

# By GDCM: JPEG (baseline, extended, lossless), JPEG-LS, JPEG 2000, RLE.
OF_GDCM = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91)} | {"1.2.840.10008.1.2.5"}
OF_OPENJPEG = {f"1.2.840.10008.1.2.4.{number}" for number in (201, 202, 203)}  # high-throughput JPEG 2000
INSTALL = "run: pip install pylibjpeg pylibjpeg-openjpeg, or "


def other_compression(file: str) -> str | None:
    """The name of a file's compression, if GDCM does not know that."""
    pydicom = importlib.import_module("pydicom")
    try:
        syntax = pydicom.dcmread(
            file, specific_tags=[], stop_before_pixels=True, force=True
        ).file_meta.TransferSyntaxUID
        return None if syntax in PLAIN or syntax in OF_GDCM else str(syntax.name)
    except Exception:  # damaged, or of no syntax
        return None


def unpacked(file: str, compression: str) -> NDArray[np.float32]:
    """The rescaled values of one slice, [x, y].

    Raises:
        DataError: no package for the compression is installed, or it cannot unpack the file.
    """
    pydicom, mend = importlib.import_module("pydicom"), "export it uncompressed"
    with quiet(complete=True):
        try:
            data: Any = pydicom.dcmread(file, force=True)
            mend = INSTALL + mend if data.file_meta.TransferSyntaxUID in OF_OPENJPEG else mend
            pixels = data.pixel_array
            slope, intercept = (float(data.get(name, default)) for name, default in RESCALING)
        except Exception as error:  # pydicom and its plugins raise almost anything
            raise DataError(f"{file}: its pixels are compressed by {compression}, {_why(error)}; {mend}") from error
    return np.asarray(pixels.reshape(pixels.shape[-2:]).T * slope + intercept, dtype=np.float32)


def _why(error: Exception) -> str:
    if isinstance(error, RuntimeError | NotImplementedError | ImportError):
        return "for which nothing is installed here"
    return f"and cannot be unpacked ({type(error).__name__})"
