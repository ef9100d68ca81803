"""From what a user points at, a file, a folder or DICOM, to the scans in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aps_components.data import DataError, case_name, inference_items
from aps_components.data.datalist import FAULT, files_of, scans_in
from aps_components.data.marks import is_result
from aps_components.data.modalities import SUFFIXES, is_nifti_name, stem
from aps_components.data.nifti import read_geometry
from aps_components.files import expanded
from aps_components.segmentation.dicom import Series, find_series, is_dicom, series_names, write_nifti
from aps_components.segmentation.dicom import grid as series_grid
from aps_components.uncertainty import ALL_MAP_NAMES

LABEL_MAP = "seg"
PROBABILITIES = "probabilities"
WRITTEN = (
    LABEL_MAP,
    PROBABILITIES,
    *ALL_MAP_NAMES,
)  # what segmentation writes beside a scan, as the last part of a name


@dataclass(frozen=True)
class Case:
    """One scan: NIfTI files, in channel order, or a DICOM series."""

    name: str
    files: tuple[str, ...] = ()
    series: Series | None = None
    fault: str = ""  # why it cannot be segmented, where that is known already

    @property
    def sources(self) -> list[str]:
        """The files that the scan is in."""
        return list(self.files) if self.series is None else [part.file for part in self.series.slices]

    def nifti(self, folder: Path) -> list[str]:
        """The scan's NIfTI files; a DICOM series is written into ``folder`` first."""
        if self.series is None:
            return list(self.files)
        target = folder / f"{self.name}{SUFFIXES[0]}"
        write_nifti(self.series, target)
        return [str(target)]

    def grid(self) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
        """The shape (X, Y, Z) of the scan and its affine [4, 4], voxel to mm, RAS+, from its headers.

        Raises:
            DataError: they cannot be read.
        """
        if self.series is None:
            header = read_geometry(self.files[0])
            return header.shape, header.affine
        return series_grid(self.series)


@dataclass(frozen=True)
class Inputs:
    """The scans, and what lies beside them and is none, a sentence each."""

    cases: list[Case]
    left_out: list[str]


def find_cases(
    source: str | os.PathLike[str], *, modalities: Sequence[str] | None = None, series: str | None = None
) -> Inputs:
    """The scans of a NIfTI file, a folder of NIfTI files, or a folder with DICOM series anywhere in it.

    Args:
        source: the file or the folder; in a folder with NIfTI files DICOM is not looked for, unless by ``series``.
        modalities: of the files of a case, see ``aps_components.data.inference_items``.
        series: only the DICOM series of this number or name, or whose description contains this.

    Raises:
        DataError: there is nothing to segment; what was found instead, and what is wanted.
    """
    path = expanded(source)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; check the path")
    if path.is_file() and not is_nifti_name(path):
        raise DataError(f"{path}: {_wanted(path)}")
    if series is not None and path.is_file():
        raise DataError(f"{path}: --series chooses among the DICOM series of a folder, this is a NIfTI file")
    if path.is_file() or (series is None and _has_nifti(path, modalities)):
        items = inference_items(image=path, modalities=modalities, leave_out=True)
        cases = [Case(case_name(item), tuple(files_of(item["image"])), fault=item.get(FAULT, "")) for item in items]
        return _without_written(cases, [] if path.is_file() else _results(path))
    return _series_cases(path, series)


def _wanted(file: Path) -> str:
    if is_dicom(file):
        return "one file of a DICOM series; give the folder that holds the series"
    return "neither .nii or .nii.gz nor DICOM; convert the scan to NIfTI"


def _has_nifti(folder: Path, modalities: Sequence[str] | None) -> bool:
    """Of several modalities each case may have a folder of its own."""
    inner = [] if modalities is None else [place for place in folder.iterdir() if place.is_dir()]
    return any(not is_result(file) for place in (folder, *inner) for file in scans_in(place))


def _results(folder: Path) -> list[str]:
    return [f"{stem(file)}: a result of an earlier call" for file in scans_in(folder) if is_result(file)]


def _without_written(cases: list[Case], left_out: list[str]) -> Inputs:
    """A folder that results were written into holds ``a_seg.nii.gz`` beside ``a.nii.gz``: no scans of their own."""
    names = {case.name for case in cases}
    results = [
        case for case in cases if any(case.name.removesuffix(f"_{part}") in names - {case.name} for part in WRITTEN)
    ]
    left_out = left_out + [f"{case.name}: lies beside the scan it is named after, as results do" for case in results]
    return Inputs([case for case in cases if case not in results], left_out)


def _series_cases(folder: Path, wanted: str | None) -> Inputs:
    found = find_series(folder)
    if not found:
        inner = [name for name in ("images", "imagesTs", "imagesTr") if (folder / name).is_dir()]
        mend = f"did you mean {folder / inner[0]}?" if inner else "put the scans there"
        raise DataError(f"{folder}: neither a .nii or .nii.gz file nor DICOM images in this folder; {mend}")
    named = list(zip(series_names(found), found, strict=True))
    if wanted is not None:
        named = [(name, one) for name, one in named if _is_asked_for(one, name, wanted)]
    if not named:
        there = ", ".join(series_names(found))
        raise DataError(f"{folder}: no series {wanted!r}; there are: {there}; give a number, a name or a part of one")
    cases = [Case(name, series=one) for name, one in named if one.no_volume is None]
    left_out = [f"{name}: {one.no_volume}" for name, one in named if one.no_volume is not None]
    if not cases:
        raise DataError(f"{folder}: no DICOM series that is a volume ({'; '.join(left_out)})")
    return Inputs(cases, left_out)


def _is_asked_for(series: Series, name: str, wanted: str) -> bool:
    if wanted.isdigit():
        return series.number == int(wanted)
    return wanted.lower() == name or wanted.lower() in series.description.lower()
