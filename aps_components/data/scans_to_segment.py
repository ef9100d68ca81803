"""Which scans are to be segmented: files, or those of a folder, without a datalist.

Only file names are looked at here, never a scan.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from aps_components.data.datalist import (
    FAULT,
    File,
    Item,
    dataset_folder,
    files_of,
    refuse_same_names,
    scans_in,
    with_hash,
    with_modalities,
)
from aps_components.data.errors import DataError
from aps_components.data.marks import is_result
from aps_components.data.modalities import group_by_case, is_nifti_name
from aps_components.files import expanded


def inference_items(
    *,
    image: File | Sequence[File] | None = None,
    dataset_dir: File | None = None,
    modalities: Sequence[str] | None = None,
    leave_out: bool = False,
) -> list[Item]:
    """The scans to segment, sorted by name. Results of earlier calls in the same folder are none.

    Args:
        image: a NIfTI file, a list with the files of one case, or a folder; comes before `dataset_dir`.
        dataset_dir: a dataset's folder: the scans of its images/ folder, or else its own.
        modalities: which files of a case to use, in channel order. The files of a folder and of the folders in it are
            then put together by case, see `group_by_case`. None takes every file of the folder as a case.
        leave_out: of several cases, give one that lacks a file the reason under "fault" instead of raising it.
    """
    if image:
        files = [expanded(with_hash(file)) for file in files_of(image)]
        cases = _cases(files[0], modalities) if len(files) == 1 else [[_scan(file) for file in files]]
    elif dataset_dir:
        place = dataset_folder(dataset_dir)
        cases = _cases(place / "images" if (place / "images").is_dir() else place, modalities)
    else:
        raise DataError("nothing to segment: give image (a NIfTI file, a list of them or a folder) or dataset_dir")
    items: list[Item] = [{"image": case if len(case) > 1 else case[0]} for case in cases]
    if modalities is not None:
        choose = _chosen_or_fault if leave_out and len(items) > 1 else with_modalities
        items = [choose(item, modalities) for item in items]
    refuse_same_names(items)
    return items


def _chosen_or_fault(item: Item, modalities: Sequence[str]) -> Item:
    try:
        return with_modalities(item, modalities)
    except DataError as error:
        return {**item, FAULT: str(error)}


def _cases(place: Path, modalities: Sequence[str] | None) -> list[list[str]]:
    """The files of every case of a folder, or of the one that a file is."""
    if not place.is_dir():
        return [[_scan(place)]]
    files = _no_results(scans_in(place))
    if modalities is None:
        cases = [[file] for file in files]
    else:
        inner = sorted(folder for folder in place.iterdir() if folder.is_dir() and not folder.name.startswith("."))
        files += [file for folder in inner for file in _no_results(scans_in(folder))]
        cases = group_by_case(files, modalities)
    if not files:
        raise DataError(f"{place}: no .nii or .nii.gz file in this folder; put the scans there")
    if not cases:
        raise DataError(f"{place}: none of its {len(files)} NIfTI files is one of the modalities {modalities}")
    return cases


def _no_results(files: Sequence[Path]) -> list[str]:
    return [os.path.abspath(file) for file in files if not is_result(file)]


def _scan(file: Path) -> str:
    if not file.exists():
        raise DataError(f"{file}: no such file or folder; {_mend(file)}")
    if not is_nifti_name(file):
        raise DataError(f"{file}: not a .nii or .nii.gz file; convert the scan to NIfTI")
    return os.path.abspath(file)


def _mend(file: Path) -> str:
    """A shell takes "#" for what it is, MONAI's command line for the beginning of a comment."""
    cut = sorted(file.parent.glob(f"{glob.escape(file.name)}#*")) if file.parent.is_dir() else []
    return f"""write '"{cut[0]}"', as MONAI's command line cuts at #""" if cut else "check the path"
