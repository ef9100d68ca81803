"""Which of a case's files holds which modality, told from their names.

A file's modality is the last part of its name, as in ``BraTS-GLI-00000-000-t1n.nii.gz`` or
``BraTS20_Training_001_flair.nii.gz``. Only names are looked at here, never a scan.
"""

import os
import re
from collections.abc import Sequence
from itertools import takewhile

from aps_components.data.errors import DataError

SUFFIXES = (".nii.gz", ".nii")
SEPARATORS = "-_."
OTHER_NAMES = {"t1": "t1n", "t1ce": "t1c", "t1gd": "t1c", "t2": "t2w", "flair": "t2f"}
MRI = frozenset(OTHER_NAMES.values())
SEGMENTATION = "seg"

File = str | os.PathLike[str]


def stem(file: File) -> str:
    """A file's name without its folder and without .nii or .nii.gz."""
    name = os.path.basename(os.fspath(file))
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix)), name)


def is_nifti_name(file: File) -> bool:
    """Whether a file's name ends in .nii or .nii.gz, in capitals, too."""
    return os.fspath(file).lower().endswith(SUFFIXES)


def common_name(files: Sequence[File]) -> str:
    """What the names of a case's files have in common: their first parts, or else the name of their folder."""
    parts = zip(*(re.split(f"([{SEPARATORS}])", stem(file)) for file in files), strict=False)
    shared = "".join(part[0] for part in takewhile(lambda part: len(set(part)) == 1, parts)).rstrip(SEPARATORS)
    return shared or os.path.basename(os.path.dirname(os.path.abspath(files[0]))) or stem(files[0])


def modality_of(file: File) -> str:
    """The last part of a file's name in lower case; t1, t1ce, t1gd, t2 and flair become t1n, t1c, t1c, t2w and t2f."""
    return _one_name(re.split(f"[{SEPARATORS}]", stem(file))[-1])


def names_modality(file: File, modalities: Sequence[str]) -> bool:
    """Whether a file's name ends in a modality: one that is wanted, or where MRI is wanted any of MRI."""
    wanted = set(_wanted(modalities))
    return modality_of(file) in (wanted | MRI if wanted & MRI else wanted)


def select_modalities(files: Sequence[File], modalities: Sequence[str]) -> list[str]:
    """The file of each modality, in the order of the modalities; other files, such as a segmentation, are left out.

    Args:
        files: of one case.
        modalities: their names, of any case; t1, t1ce, t1gd, t2 and flair mean t1n, t1c, t1c, t2w and t2f.
    """
    place = os.path.join(os.path.dirname(os.fspath(files[0])), common_name(files)) if files else "a case without files"
    return [_file_of(wanted, files, place) for wanted in _wanted(modalities)]


def group_by_case(files: Sequence[File], modalities: Sequence[str]) -> list[list[str]]:
    """The files of each case, in the order of the modalities; cases in the order of their first files.

    Files of one folder whose names differ in the modality alone are one case; a file whose name ends in no modality
    is one by itself, with its channels inside. Files ending in "seg" are left out. With a single modality every file
    of it is a case, or, where no name ends in a modality, every file. A case without one of its modalities is there
    with all its files, for `select_modalities` to refuse.

    Args:
        files: of any number of cases.
        modalities: as for `select_modalities`.
    """
    images = [os.fspath(file) for file in files if modality_of(file) != SEGMENTATION]
    if len(wanted := _wanted(modalities)) == 1:
        named = any(names_modality(file, modalities) for file in images)
        return [[file] for file in images if not named or modality_of(file) == wanted[0]]
    cases: dict[str, list[str]] = {}
    for file in images:
        cases.setdefault(_without_modality(file) if names_modality(file, modalities) else file, []).append(file)
    return [[case] if [case] == group else _in_order(group, modalities) for case, group in cases.items()]


def _in_order(files: list[str], modalities: Sequence[str]) -> list[str]:
    """Of a case that lacks one as they are: whoever uses it says so, and other cases go on."""
    try:
        return select_modalities(files, modalities)
    except DataError:
        return files


def _wanted(modalities: Sequence[str]) -> list[str]:
    names = [] if isinstance(modalities, str) else [_one_name(str(name)) for name in modalities]
    if not names or len(set(names)) < len(names):
        raise DataError(
            f'modalities {modalities!r} must be a list of different ones, such as ["t1n", "t1c", "t2w", "t2f"]'
        )
    return names


def _one_name(modality: str) -> str:
    return OTHER_NAMES.get(modality.lower(), modality.lower())


def _file_of(modality: str, files: Sequence[File], place: str) -> str:
    found = [os.fspath(file) for file in files if modality_of(file) == modality]
    if len(found) == 1:
        return found[0]
    have = ", ".join(os.path.basename(file) for file in (found or files)) or "none"
    raise DataError(
        f"{place}: {len(found) or 'no'} files of the modality {modality}, the files are: {have}; each modality "
        f"wants one file whose name ends in it, as in NAME-{modality}.nii.gz; add or rename it, or mend modalities"
    )


def _without_modality(file: str) -> str:
    """A file's path up to its modality."""
    last = re.split(f"[{SEPARATORS}]", stem(file))[-1]
    return os.path.join(os.path.dirname(file), stem(file).removesuffix(last).rstrip(SEPARATORS))
