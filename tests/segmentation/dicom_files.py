"""DICOM series on disk, made up, of which every voxel and every place is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

SHAPE = (17, 24, 40)  # x along a row, y along a column, slices
SPACING = (0.7, 0.9, 3.0)
# Perpendicular, and neither the axes of the patient nor of equal entries.
ROW = np.array([0.8, 0.36, 0.48])
COLUMN = np.array([-0.6, 0.48, 0.64])
NORMAL = np.cross(ROW, COLUMN)
ORIGIN = np.array([11.5, -23.25, 37.0])
INTERCEPT = -1024


def stored(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """A different value in every voxel, [x, y, z], uint16."""
    return np.arange(np.prod(shape), dtype=np.uint16).reshape(shape, order="F")


def lps(x: float, y: float, z: float) -> np.ndarray:
    """The place of a voxel in the patient, mm, LPS."""
    return ORIGIN + x * SPACING[0] * ROW + y * SPACING[1] * COLUMN + z * SPACING[2] * NORMAL


def slice_of(voxels: np.ndarray, z: int, **changes: Any) -> Dataset:
    """One slice [x, y] of a CT as a data set."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"1.2.3.4.{z + 1}"
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = "1.2.3.4", "1.2.3"
    dataset.FrameOfReferenceUID = "1.2.3.9"
    dataset.SeriesNumber, dataset.SeriesDescription, dataset.Modality = 3, "T1 axial (Gd)", "CT"
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "4711"
    dataset.Columns, dataset.Rows = voxels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, INTERCEPT
    dataset.PixelSpacing = [SPACING[1], SPACING[0]]  # between rows, then between columns
    dataset.ImageOrientationPatient = [*ROW, *COLUMN]
    dataset.ImagePositionPatient = [round(float(value), 6) for value in lps(0, 0, z)]
    dataset.PixelData = np.ascontiguousarray(voxels.T).astype(np.uint16).tobytes()
    for name, value in changes.items():
        setattr(dataset, name, value)
    return dataset


def write_series(folder: Path, *, shape: tuple[int, int, int] = SHAPE, ending: str = "", **changes: Any) -> Path:
    """All slices, in files whose names say nothing of their order."""
    folder.mkdir(parents=True, exist_ok=True)
    voxels, names = stored(shape), np.random.default_rng(0).permutation(shape[2])
    for z, name in enumerate(names):
        slice_of(voxels[..., z], z, **changes).save_as(folder / f"IM{name:04d}{ending}", enforce_file_format=True)
    return folder


def items(**values: Any) -> list[Dataset]:
    """A sequence of one item."""
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return [item]


def multi_frame(order: Sequence[int], *, numbers: Sequence[int] | None = None) -> Dataset:
    """The slices as one enhanced CT.

    Args:
        order: the slices' numbers, in the order of the frames.
        numbers: what each frame is counted as; its slice's by default, from 1 on.
    """
    voxels = stored()
    data = slice_of(voxels[..., 0], 0, SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=len(order))
    for name in (*("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"), "RescaleSlope"):
        delattr(data, name)
    del data.RescaleIntercept
    data.SharedFunctionalGroupsSequence = items(
        PlaneOrientationSequence=items(ImageOrientationPatient=[*ROW, *COLUMN]),
        PixelMeasuresSequence=items(PixelSpacing=[SPACING[1], SPACING[0]], SliceThickness=SPACING[2]),
        PixelValueTransformationSequence=items(RescaleSlope=1, RescaleIntercept=INTERCEPT, RescaleType="HU"),
    )
    data.PerFrameFunctionalGroupsSequence = [
        item
        for z, number in zip(order, numbers or [int(z) + 1 for z in order], strict=True)
        for item in items(
            PlanePositionSequence=items(ImagePositionPatient=[round(float(value), 6) for value in lps(0, 0, z)]),
            FrameContentSequence=items(StackID="1", InStackPositionNumber=number, DimensionIndexValues=[1, number]),
        )
    ]
    data.DimensionIndexSequence = [
        item
        for name in ("StackID", "InStackPositionNumber")
        for item in items(DimensionIndexPointer=Tag(name), FunctionalGroupPointer=Tag("FrameContentSequence"))
    ]
    data.PixelData = b"".join(np.ascontiguousarray(voxels[..., z].T).tobytes() for z in order)
    return data
