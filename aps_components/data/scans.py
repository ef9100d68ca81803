"""What there is to learn from, in any of the forms that a dataset comes in, as one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aps_components.data.case_folder import CHANNEL, DECLARATION, Case, CaseFolder, find_cases
from aps_components.data.datalist import (
    DATALIST,
    PATIENT,
    Datalist,
    Item,
    case_name,
    declared_patients,
    files_of,
    load_datalist,
    read_datalist,
    refuse_same_names,
    said_of_all,
    same_patient,
)
from aps_components.data.errors import DataError
from aps_components.data.label_values import ignore_faults
from aps_components.data.modalities import stem
from aps_components.data.partial import CLASSES, IGNORE, KEYS, SLICES
from aps_components.data.patients import patients_of, shared_start
from aps_components.files import expanded, sha256_of
from aps_components.terminal import say


@dataclass(frozen=True, kw_only=True)
class Scans:
    """The scans of a dataset by what they may be used for.

    Attributes:
        folder: those to learn from, with labels by hand and without.
        names: value in the label files to class name, as a datalist declares it; None where there is no datalist.
        validation, test: items that a datalist keeps apart, with absolute paths; nothing is learned from them.
        patients: whose scan each case is, by the case's name.
        listing: the datalist's file; None where there is none.
        labels_by_models: how many labels of the datalist were made by models; these scans count as unlabelled.
    """

    folder: CaseFolder
    names: dict[int, str] | None
    validation: list[Item]
    test: list[Item]
    patients: dict[str, str]
    listing: Path | None = None
    labels_by_models: int = 0

    def told(self, *, ignore: int | None = None, slices: Any = None) -> Scans:
        """The same with what is said of all labels, of scans that are kept apart as well; see `CaseFolder.told`."""
        said = {key: value for key, value in ((IGNORE, ignore), (SLICES, slices)) if value is not None}
        return replace(
            self,
            folder=self.folder.told(ignore=ignore, slices=slices),
            validation=[said_of_all(item, said) for item in self.validation],
            test=[said_of_all(item, said) for item in self.test],
        )

    def facts(self) -> dict[str, list[Any]]:
        """What would make a training another one, by the case's name, of JSON's types: its part, patient and files.

        An image is known by its size; a label, which people go on drawing, by its content.
        """
        parts = {
            "training": [self.folder.item(case) for case in self.folder.cases],
            "validation": self.validation,
            "test": self.test,
        }
        return {
            case_name(item): [part, self.patients.get(case_name(item)), *_file_facts(item)]
            for part, items in parts.items()
            for item in items
        }


def _file_facts(item: Item) -> list[Any]:
    images = [[file, os.stat(file).st_size if os.path.isfile(file) else None] for file in files_of(item["image"])]
    label = item.get("label")
    drawn = sha256_of(label) if label and os.path.isfile(label) else None
    return [images, label, drawn, {key: item[key] for key in KEYS if key in item}]


def find_scans(data: str | os.PathLike[str], *, images: str | None = None, labels_dir: str | None = None) -> Scans:
    """Find the scans of a folder, or of a datalist.

    Prints a note where names say that one patient's scans are both learned from and kept apart.

    Args:
        data: a datalist's file, or a folder that holds ``datalist.json``, ``images/`` and ``labels/``, or ``imagesTr/``
            and ``labelsTr/`` as nnU-Net and the Medical Segmentation Decathlon lay it out.
        images, labels_dir: sub-folders with other names.

    Raises:
        DataError: there are none, or what is there does not fit together.
    """
    place = Path(os.path.abspath(expanded(data)))
    if place.is_file() and not (images is None and labels_dir is None):
        raise DataError(f"{place}: a datalist names its files itself; leave --images and --labels_dir out")
    if not place.exists():
        raise DataError(f"{place}: no such folder or file; give the folder of the scans, or a datalist")
    file = place if place.is_file() else place / DATALIST
    if file.is_file() and images is None and labels_dir is None:
        return _listed(file)
    folder = find_cases(place, images=images, labels=labels_dir)
    patients = _patients([case.name for case in folder.cases])
    return Scans(folder=folder, names=None, validation=[], test=[], patients=patients)


def _patients(names: Sequence[str]) -> dict[str, str]:
    if (start := shared_start(names)) is not None:
        say(
            f"Note: by their names all {len(names)} scans would be of one patient, {start}. Each is taken for a "
            f'patient of its own; if they are of one, write "{PATIENT}" beside each in a datalist'
        )
    return patients_of(names)


def load_listing(file: Path, *, counts_at_most: bool = False) -> Datalist:
    """A datalist that somebody names by its file; of nnU-Net's and the Decathlon's it is said that a folder is wanted.

    Raises:
        DataError: as :func:`load_datalist`.
    """
    try:
        return load_datalist(file.parent, file=file, counts_at_most=counts_at_most)
    except DataError as error:
        if file.name != DECLARATION:
            raise
        raise DataError(
            f"{error}. If this is nnU-Net's or the Decathlon's file, give its folder, {file.parent}"
        ) from error


def _listed(file: Path) -> Scans:
    root = file.parent
    datalist = load_listing(file)
    kept = [*datalist.validation, *datalist.test]
    refuse_same_names([*datalist.training_items, *kept])
    by_hand = [item for item in datalist.labeled if item["label"] not in datalist.labels_by_models]
    labels = {id(item) for item in by_hand}
    learned = [item if id(item) in labels else {"image": item["image"]} for item in datalist.training_items]
    cases = [_case(item, root) for item in learned]
    folder = CaseFolder(
        root=root,
        images=_folder_of([file for case in cases for file in case.images]),
        labels=_folder_of([case.label for case in cases if case.label]),
        cases=cases,
        channel_tokens=_channel_tokens(cases),
        labels_without_image=[],
        faults=[],
        ignore=_ignore(learned, file),
    )
    declared = declared_patients(read_datalist(file), root)
    by_name = _patients([case_name(item) for item in [*learned, *kept]])
    _refuse_same_patients(learned, kept, declared, file)
    _note_same_patients(learned, kept, declared, by_name)
    patients = {
        case_name(item): declared.get(files_of(item["image"])[0]) or by_name[case_name(item)] for item in learned
    }
    return Scans(
        folder=folder,
        names=dict(datalist.labels),
        validation=datalist.validation,
        test=list(datalist.test),
        patients=patients,
        listing=file,
        labels_by_models=len(datalist.labeled) - len(by_hand),
    )


def _case(item: Mapping[str, Any], root: Path) -> Case:
    files = tuple(os.path.relpath(file, root) for file in files_of(item["image"]))
    label = item.get("label")
    said = {key: item[key] for key in (SLICES, CLASSES) if key in item}
    return Case(case_name(item), files, None if label is None else os.path.relpath(label, root), said)


def _channel_tokens(cases: Sequence[Case]) -> tuple[str, ...]:
    """In which the image files of every case end, in this order; none where they do not."""
    found = {
        tuple(match[2] if (match := CHANNEL.fullmatch(stem(file))) else "" for file in case.images) for case in cases
    }
    tokens = next(iter(found)) if len(found) == 1 else ()
    return tokens if len(tokens) > 1 and all(tokens) else ()


def _ignore(items: Sequence[Item], file: Path) -> int | None:
    values = {item[IGNORE]: item["label"] for item in items if IGNORE in item}
    if len(values) > 1:
        raise DataError(f"{file}: ignore has the values {sorted(values)}: give one for the whole datalist")
    for value, label in values.items():
        for fault in ignore_faults(value, num_classes=1):  # other values may be left out of the classes later
            raise DataError(f"{label}: {fault}")
    return next(iter(values), None)


def _folder_of(files: Sequence[str]) -> str:
    return os.path.dirname(files[0]) or "." if files else "."


def _refuse_same_patients(
    learned: Sequence[Item], kept: Sequence[Item], declared: Mapping[str, str], file: Path
) -> None:
    """Figures on a patient that a model has seen are too good."""
    if found := same_patient(learned, kept, declared):
        raise DataError(
            f"{file}: {found[0]} is kept apart, and {found[1]} of the same patient is learned from: figures would be "
            "too good; move one of them to the other's part"
        )


def _note_same_patients(
    learned: Sequence[Item], kept: Sequence[Item], declared: Mapping[str, str], by_name: Mapping[str, str]
) -> None:
    """A name may mislead: what it alone says is printed, and refused by nobody."""
    if pairs := _alike_by_name(learned, kept, declared, by_name):
        apart, seen = pairs[0]
        more = f", and so it is with {len(pairs) - 1} more" if len(pairs) > 1 else ""
        say(
            f"Note: by their names, {apart} (kept apart) and {seen} (learned from) are of one patient{more}: figures "
            f'would be too good; move one of them, or give each its "{PATIENT}" in the datalist'
        )


def _alike_by_name(
    learned: Sequence[Item], kept: Sequence[Item], declared: Mapping[str, str], by_name: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Each case that is kept apart with one of its patient's that is learned from, unless both say whose they are."""

    def says(item: Item) -> bool:
        return files_of(item["image"])[0] in declared

    names = {case_name(item): says(item) for item in learned}
    seen = {by_name[name]: name for name in names}
    unsaid = {by_name[name]: name for name, said in names.items() if not said}
    pairs = ((case_name(item), (unsaid if says(item) else seen).get(by_name[case_name(item)])) for item in kept)
    return [(name, other) for name, other in pairs if other is not None]
