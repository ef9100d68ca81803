"""A label map as a DICOM SEG of the series that it is of: on its very frames, and of its patient and study."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps_components import __version__
from aps_components.bundle.segment_codes import KEY, Code, SegmentCodes, read_segment_codes
from aps_components.data import DataError
from aps_components.data.nifti import read_scan
from aps_components.files import replacing, sha256_of
from aps_components.pictures import MADE_HERE
from aps_components.segmentation.dicom import Series, geometry
from aps_components.segmentation.dicom_frames import frames_of, on_frames, read_header
from aps_components.segmentation.quiet import quiet

PACKAGE = "highdicom"
LONGEST = 64  # letters of a short text, DICOM's LO
FIRST_NUMBER = 1000  # added to the series' number, so that the segmentation stands behind it in a viewer
UTF_8 = "ISO_IR 192"
NEEDED = {"FrameOfReferenceUID": "frame of reference", "StudyInstanceUID": "study", "SOPInstanceUID": "UID of its own"}
# Of the patient and the study; a series may leave them empty, and a file may lack them.
MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName"),
)


@dataclass(frozen=True)
class Maker:
    """What made a label map, and what its classes are.

    Args:
        name: of the algorithm.
        version: its own.
        weights: hash of the weights, in hexadecimal digits.
        labels: class value to name, background included.
        codes: class value to codes; a class without is said to be tissue.
    """

    name: str
    version: str
    weights: str
    labels: Mapping[int, str]
    codes: Mapping[int, SegmentCodes]

    @classmethod
    def of_bundle(cls, metadata: Mapping[str, Any], *, name: str, weights: str, labels: Mapping[int, str]) -> Maker:
        """As a bundle's ``metadata.json`` says.

        Args:
            metadata: its content.
            name: of the bundle, where that says none.
            weights: hash of the weights.
            labels: of the model, class value to name; a class that the metadata call otherwise has no codes there.

        Raises:
            ValueError: the codes are no codes.
        """
        try:
            named = dict(metadata["network_data_format"]["outputs"]["pred"]["channel_def"])
        except (KeyError, TypeError, ValueError):
            named = {}
        codes = read_segment_codes(metadata.get(KEY))
        return cls(
            name=str(metadata.get("name") or name),
            version=str(metadata.get("version") or "unknown"),
            weights=weights,
            labels=labels,
            codes={label: found for label, found in codes.items() if named.get(str(label)) == labels.get(label)},
        )


def require_highdicom() -> ModuleType:
    """The package that writes DICOM SEG.

    Raises:
        RuntimeError: it is not installed.
    """
    try:
        return importlib.import_module(PACKAGE)
    except ImportError as error:
        raise RuntimeError(
            f"{PACKAGE}, which writes DICOM SEG, is not installed; run: pip install {PACKAGE} SimpleITK"
        ) from error


def is_own(file: str | os.PathLike[str]) -> bool:
    """Whether a file is a DICOM SEG that was written here."""
    return _said_by(file).get("Manufacturer") == MADE_HERE


def is_of(file: str | os.PathLike[str], label_map: str | os.PathLike[str], *, series: Series, maker: Maker) -> bool:
    """Whether a DICOM SEG is there, and of this label map as it is now."""
    return os.path.isfile(file) and _said_by(file).get("SOPInstanceUID") == _uid("instance", label_map, series, maker)


def write_dicom_seg(
    file: str | os.PathLike[str],
    label_map: str | os.PathLike[str],
    *,
    series: Series,
    maker: Maker,
    by_a_person: bool = False,
) -> None:
    """Write a label map as a DICOM SEG with a segment for each class; a class that is nowhere has no frames.

    Each pixel of the series has the class of the nearest voxel: where its slices were put upright, it is tilted back.
    The same label map has the same UID, however often it is written.

    Args:
        file: receives the SEG.
        label_map: a NIfTI file, on the grid that the series is read on.
        series: which.
        maker: of the label map.
        by_a_person: whether a person had a hand in it.

    Raises:
        DataError: the series says too little of itself, or the label map is not of it.
        RuntimeError: highdicom is not installed.
    """
    sources, scan = _sources(series), read_scan(label_map)
    try:
        frames = on_frames(_segment_numbers(scan.voxels, maker), scan.geometry.affine, frames_of(sources))
    except DataError as error:
        raise DataError(f"{label_map}: no label map of {series.name}: {error}; segment it again") from error
    described = _descriptions(maker, by_a_person=by_a_person)
    try:
        with quiet(complete=True):  # of an empty segmentation, and of values that are copied as they are
            seg = _segmentation(
                source_images=sources,
                pixel_array=frames,
                segment_descriptions=described,
                series_instance_uid=_uid("series", label_map, series, maker),
                series_number=FIRST_NUMBER + max(series.number or 0, 0) % 10**6,
                sop_instance_uid=_uid("instance", label_map, series, maker),
                manufacturer_model_name=_short(maker.name),
                device_serial_number=_short(maker.weights),
                series_description=_short(f"{MADE_HERE} of {series.description or series.name}"),
            )
            with replacing(file) as place:
                seg.save_as(place)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # what highdicom finds wrong with the sources
        raise DataError(
            f"{Path(series.slices[0].file).parent}: no DICOM SEG of it: {error}; export it again"
        ) from error


def _segmentation(**options: Any) -> Any:
    """With what is the same in all of them."""
    highdicom = require_highdicom()
    return highdicom.seg.Segmentation(
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        instance_number=1,
        manufacturer=MADE_HERE,
        software_versions=__version__,
        content_label="SEGMENTATION",
        content_description="Research only",
        specific_character_set=UTF_8,
        **options,
    )


def _sources(series: Series) -> list[Any]:
    """The headers of the series' files, in the order of its slices."""
    many = any(part.frames > 1 for part in series.slices)
    sources = [read_header(part.file) for part in (series.slices if many else geometry(series)[0])]
    for source in sources:
        for name, said in NEEDED.items():
            if not source.get(name):
                folder = Path(series.slices[0].file).parent
                raise DataError(f"{folder}: no {said}, which a DICOM SEG needs; export it again")
        source.decode()
        source.SpecificCharacterSet = UTF_8
        for name in MAY_BE_EMPTY:
            if name not in source:
                setattr(source, name, "")
    if not many:
        _say_spacing(sources)
    return sources


def _say_spacing(sources: Sequence[Any]) -> None:
    """Frames without any class are left out, so that the distance of two frames is not that of two slices."""
    heights = frames_of(sources).heights
    spacing = round(float(heights[-1] - heights[0]) / (len(heights) - 1), 6)
    for source in sources:
        source.SpacingBetweenSlices = spacing
        if not source.get("SliceThickness"):
            source.SliceThickness = spacing


def _segment_numbers(voxels: NDArray[Any], maker: Maker) -> NDArray[Any]:
    """Segments are numbered from 1 on without a gap, in the order of the classes' values; [X, Y, Z]."""
    values = [0, *(label for label in sorted(maker.labels) if label)]
    dtype: type[np.unsignedinteger[Any]] = np.uint8 if len(values) < np.iinfo(np.uint8).max else np.uint16
    no_class = np.iinfo(dtype).max
    numbers = np.full(max(values) + 1, no_class, dtype=dtype)
    numbers[values] = np.arange(len(values))
    result = np.empty(voxels.shape, dtype=dtype, order="F")
    for z in range(voxels.shape[2]):  # a slice at a time: indices take eight bytes each
        wanted = voxels[..., z]
        index = np.clip(wanted, 0, max(values)).astype(np.intp)
        result[..., z] = numbers[index]
        unknown = (index != wanted) | (result[..., z] == no_class)
        if unknown.any():
            raise DataError(f"value {wanted[unknown][0]:g} of the label map is no class of the model")
    return result


def _descriptions(maker: Maker, *, by_a_person: bool) -> list[Any]:
    highdicom = require_highdicom()
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=_short(maker.name),
        family=_coded(Code("123110", "DCM", "Artificial Intelligence")),
        version=_short(maker.version),
        source=MADE_HERE,
        parameters={"weights_sha256": maker.weights},
    )
    types = highdicom.seg.SegmentAlgorithmTypeValues
    found = []
    for number, label in enumerate((label for label in sorted(maker.labels) if label), start=1):
        codes = maker.codes.get(label, SegmentCodes())
        one = highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=_short(maker.labels[label]),
            segmented_property_category=_coded(codes.category),
            segmented_property_type=_coded(codes.type),
            algorithm_type=types.SEMIAUTOMATIC if by_a_person else types.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        if codes.modifier is not None:
            kind = one.SegmentedPropertyTypeCodeSequence[0]
            kind.SegmentedPropertyTypeModifierCodeSequence = [_coded(codes.modifier)]
        found.append(one)
    return found


def _coded(code: Code) -> Any:
    return require_highdicom().sr.CodedConcept(code.value, code.scheme, code.meaning)


def _short(text: str) -> str:
    """Without the backslash, which parts values in DICOM."""
    return text.replace("\\", "/")[:LONGEST].strip() or "unknown"


def _uid(of: str, label_map: str | os.PathLike[str], series: Series, maker: Maker) -> str:
    """Made of everything that the SEG says, so that another one has another."""
    said = [sha256_of(label_map), series.uid, maker.name, maker.version, maker.weights, __version__, of]
    classes = {label: [name, str(maker.codes.get(label))] for label, name in maker.labels.items()}
    uids = importlib.import_module("pydicom.uid")
    return str(uids.generate_uid(entropy_srcs=[*said, json.dumps(classes, sort_keys=True)]))


def _said_by(file: str | os.PathLike[str]) -> Mapping[str, str]:
    """Some values of a DICOM SEG; none of another file."""
    try:
        header = read_header(os.fspath(file))
        if header.get("Modality") != "SEG":
            return {}
        return {name: str(header.get(name, "")) for name in ("Manufacturer", "SOPInstanceUID")}
    except (DataError, ImportError, AttributeError):
        return {}
