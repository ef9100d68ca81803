"""What there is to learn from, in any of the forms that a dataset comes in, as one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aps_components.data.case_folder import CHANNEL, Case, CaseFolder, find_cases
from aps_components.data.datalist import (
    DATALIST,
    Item,
    case_name,
    files_of,
    listed_entries,
    load_datalist,
    located,
    read_datalist,
    refuse_same_names,
    said_of_all,
)
from aps_components.data.errors import DataError
from aps_components.data.modalities import stem
from aps_components.data.partial import CLASSES, IGNORE, KEYS, SLICES
from aps_components.data.patients import patient_of
from aps_components.files import expanded, sha256_of

PATIENT = "patient"  # of a case in a datalist: whose scan it is


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
    patients = {case.name: patient_of(case.name) for case in folder.cases}
    return Scans(folder=folder, names=None, validation=[], test=[], patients=patients)


def _listed(file: Path) -> Scans:
    root = file.parent
    datalist = load_datalist(root, file=file)
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
    declared = _declared_patients(read_datalist(file), root)
    _refuse_same_patients(datalist.training_items, kept, declared, file)
    patients = {
        case_name(item): declared.get(files_of(item["image"])[0]) or patient_of(case_name(item)) for item in learned
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
    if 0 in values:
        raise DataError(f"{values[0]}: ignore 0 is class 0 as well: take a value that no class has, such as 255")
    return next(iter(values), None)


def _folder_of(files: Sequence[str]) -> str:
    return os.path.dirname(files[0]) or "." if files else "."


def _declared_patients(content: Mapping[str, Any], root: Path) -> dict[str, str]:
    """By the first image file of a case, of those that name one."""
    return {
        located(root, files_of(entry["image"])[0]): str(entry[PATIENT])
        for entry in listed_entries(content)
        if entry.get(PATIENT) is not None
    }


def _refuse_same_patients(
    learned: Iterable[Item], kept: Iterable[Item], declared: Mapping[str, str], file: Path
) -> None:
    """Figures on a patient that a model has seen are too good."""
    seen = {patient: item for item in learned if (patient := declared.get(files_of(item["image"])[0]))}
    for item in kept:
        if other := seen.get(declared.get(files_of(item["image"])[0], "")):
            raise DataError(
                f"{file}: {case_name(item)} is kept apart, and {case_name(other)} of the same patient is learned from: "
                "figures would be too good; move one of them to the other's part"
            )
