"""The labelled scans of a dataset in any form, as a folder with a datalist, to judge a finished model by."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aps_components.data.case_folder import DECLARATION, CaseFolder, declared_labels, find_cases, without_ignored
from aps_components.data.datalist import (
    DATALIST,
    PARTS,
    Datalist,
    Item,
    files_of,
    load_datalist,
    read_datalist,
    scans_in,
)
from aps_components.data.errors import DataError
from aps_components.data.identity import Cases, had_any
from aps_components.data.label_values import LabelValues, parsed_label_values
from aps_components.data.modalities import stem
from aps_components.data.partial import CLASSES, parsed
from aps_components.data.scans import load_listing
from aps_components.files import ensure_writable, expanded, replace_text
from aps_components.terminal import brief, say

# Of nnU-Net and the Medical Segmentation Decathlon.
KEPT_APART = ("imagesTs", "labelsTs")
SHOWN = 3


def dataset_to_judge(
    data: str | os.PathLike[str],
    *,
    known: str | os.PathLike[str],
    labels: Mapping[str, str],
    work: str | os.PathLike[str],
    split: str | None = None,
    label_values: LabelValues = None,
    cases: Cases | None = None,
) -> Path:
    """A folder that a bundle evaluates on by ``--dataset_dir``.

    A folder with a datalist of its own stays as it is, and so does one that holds the scans of ``known``. Of any other
    every labelled scan is one to judge by; whether the model has seen it is for the evaluation to say.

    Where a dataset declares some of the model's classes by name and others not at all, these are not measured: a line
    says so, and the datalist that is written then calls them not drawn.

    Args:
        data: a folder with ``datalist.json``, ``images/`` and ``labels/``, or ``imagesTs/`` and ``labelsTs/``, or else
            ``imagesTr/`` and ``labelsTr/``; or a datalist's file.
        known: the datalist that the bundle was trained with.
        labels: the model's class value to name.
        work: receives a datalist with absolute paths, where one is written; made then.
        split: which part is asked for; None takes the one that is there.
        label_values: value in the label files to class, as the model has it.
        cases: of the model's training, by which its scans are known; without them they are known by their files' names.

    Raises:
        DataError: there are no scans, none with a label, a label without its image, a class that has the model's name
            at another value, or ``split`` asks for what a plain folder cannot tell.
    """
    place = Path(os.path.abspath(expanded(data)))
    read = _read_as(labels, label_values)
    listing = place if place.is_file() else place / DATALIST
    if listing.is_file():
        return _listed(listing, labels=labels, readings=[read, _read_as(labels)], work=Path(work))
    own = _trained_on(place, Path(known), cases or {})
    if own and (split or own.validation or own.test):
        return place
    if split == "training":
        raise DataError(
            f"{place}: no datalist says which of these scans are for training; give the folder that the model was "
            "trained on, or a datalist"
        )
    images, masks = KEPT_APART if all((place / name).is_dir() for name in KEPT_APART) else (None, None)
    folder = find_cases(place, images=images, labels=masks)
    _refuse_left_out(folder)
    names, ignore = _declared(place)
    _refuse_other_classes(names, file=place / DECLARATION, readings=[read])
    drawn = _declared_classes(names, file=place / DECLARATION, labels=labels, readings=[read])
    said: Item = {} if drawn is None else {CLASSES: drawn}
    items = [case.item | said for case in folder.cases if case.label is not None]
    if own:
        items = _not_learned_from(items, folder, own)
    content: dict[str, Any] = {"name": place.name, "labels": dict(labels), "training": [], split or "test": items}
    if ignore is not None:
        content["ignore"] = ignore
    return _written(_absolute(content, folder.root), Path(work))


def _listed(file: Path, *, labels: Mapping[str, str], readings: Sequence[Mapping[int, str]], work: Path) -> Path:
    """A datalist's own folder, if it is found there by its name and declares all classes; else one with a copy."""
    root = file.parent
    datalist = load_listing(file, counts_at_most=True)
    _refuse_other_classes(datalist.labels, file=file, readings=readings)
    drawn = _declared_classes(datalist.labels, file=file, labels=labels, readings=readings)
    if file.name == DATALIST and drawn is None:
        return root
    content = read_datalist(file)
    remaining = {} if isinstance(content.get("test", []), list) else {"test": datalist.test}
    content = _absolute(content | remaining, root)
    if drawn is not None:
        content = _without_others(content, drawn, labels=labels, own=datalist.labels)
    return _written(content, work)


def _declared_classes(
    names: Mapping[int, str],
    *,
    file: Path,
    labels: Mapping[str, str],
    readings: Sequence[Mapping[int, str]],
) -> list[int] | None:
    """The model's foreground classes that a dataset declares, where it lacks some, which is printed; else None.

    Of a dataset that knows none of the model's names nothing is known. A class whose value has a name there that is
    none of the model's, as in another language, is taken for declared.

    Args:
        names: by value, as ``file`` has them.
        file: for the message.
        labels: the model's class value to name.
        readings: as of :func:`_refuse_other_classes`.
    """
    classes = {int(value): name for value, name in labels.items() if int(value)}
    known, declared = ({_plain(name) for name in each} for each in (labels.values(), names.values()))
    other = [value for value, name in names.items() if _plain(name) not in known]
    by_value = {read.get(value) for read in readings for value in other}
    missing = {value: name for value, name in classes.items() if not (_plain(name) in declared or name in by_value)}
    if not missing or not any(_plain(name) in declared for name in classes.values()):
        return None
    verb = "it is" if len(missing) == 1 else "they are"
    lacks = brief(", no ".join(missing.values()))
    say(f"Note: {file} declares no {lacks}: {verb} not measured. If its labels hold more, declare that there, too.")
    return sorted(classes.keys() - missing.keys())


def _without_others(
    content: Mapping[str, Any], drawn: Sequence[int], *, labels: Mapping[str, str], own: Mapping[int, str]
) -> dict[str, Any]:
    """A datalist in the model's classes, of which each label has some that the datalist declares.

    Args:
        content: of the datalist, whose parts are lists.
        drawn: the model's classes that it declares.
        labels: the model's class value to name.
        own: the datalist's, by number.
    """

    numbers = {_plain(name): int(value) for value, name in labels.items()}

    def item(entry: Item) -> Item:
        if not entry.get("label"):
            return entry
        said = parsed(entry, labels=own, where="").get(CLASSES, own.keys() - {0})
        mine = {numbers.get(_plain(own[value]), value) for value in said}
        return entry | {CLASSES: sorted(mine & set(drawn)) or sorted(mine)}

    parts = {part: [item(entry) for entry in content[part]] for part in PARTS if part in content}
    return {**content, **parts, "labels": dict(labels)}


def _read_as(labels: Mapping[str, str], label_values: LabelValues = None) -> dict[int, str]:
    """By value in a label file the name of the class that it is read as."""
    names = {int(value): name for value, name in labels.items()}
    mapping = parsed_label_values(label_values if isinstance(label_values, Mapping) else None)  # or an expression
    return names | {value: names.get(target, "") for value, target in mapping.items()}


def _refuse_other_classes(names: Mapping[int, str], *, file: Path, readings: Sequence[Mapping[int, str]]) -> None:
    """Figures of classes that have changed places look like those of a poor model.

    Args:
        names: by value, as ``file`` has them; those that the model does not have are passed over.
        file: for the message.
        readings: by value the model's names, in each way in which the values may be meant.
    """
    for read in readings:
        known = {_plain(name) for name in read.values()}
        other = [value for value, name in names.items() if _plain(name) in known - {_plain(read.get(value, ""))}]
        if not other:
            return
    said = ", ".join(f"{value} is {names[value]!r}" for value in other[:SHOWN])
    meant = ", ".join(f"{value} {name!r}" for value, name in sorted(readings[0].items()))
    raise DataError(
        f"{file}: {brief(said)}, but the model reads {brief(meant)}: number the label files as the model does, or, if "
        "the names are wrong, mend them"
    )


def _plain(name: str) -> str:
    return name.strip().casefold()


def _refuse_left_out(folder: CaseFolder) -> None:
    """Figures of fewer scans than there are labels of are not those of the set."""
    labelled = {stem(file) for file in scans_in(folder.root / folder.labels)}
    alone = [f"{file}: no image of this name in {folder.images}/" for file in folder.labels_without_image]
    faults = alone + [fault for fault in folder.faults if fault.partition(":")[0] in labelled]
    if faults:
        more = [f"... and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        listed = "\n".join(f"  {line}" for line in [*faults[:SHOWN], *more])
        raise DataError(
            f"{folder.root}: {len(faults)} label(s) cannot be judged by; mend the names, or take them out of the "
            f"folder:\n{listed}"
        )


def _declared(root: Path) -> tuple[dict[int, str], int | None]:
    """Names by value and the value to ignore, as nnU-Net's dataset.json has them; a damaged one says nothing."""
    try:
        names, ignore = without_ignored(declared_labels(root))
    except DataError:
        return {}, None
    return names or {}, ignore


def _not_learned_from(items: Sequence[Item], folder: CaseFolder, own: Datalist) -> list[Item]:
    """The scans that have come into the training's own folder since."""
    learned = {file for item in own.training_items for file in files_of(item["image"])}
    new = [item for item in items if not {str(folder.root / file) for file in files_of(item["image"])} & learned]
    if not new:
        raise DataError(
            f"{folder.root}: all {len(items)} labelled scans are ones that the model learned from, and its datalist "
            "keeps none apart; add other scans with labels, or give another folder"
        )
    return new


def _trained_on(place: Path, known: Path, cases: Cases) -> Datalist | None:
    """A datalist whose scans lie below a folder, and are those of the training."""
    if not known.is_file():
        return None
    try:
        datalist = load_datalist(place, default=known, counts_at_most=True)
    except DataError:
        return None
    items = [*datalist.training_items, *datalist.validation, *datalist.test]
    there = bool(items) and all(Path(file).is_file() for item in items for file in files_of(item["image"]))
    return datalist if there and (not cases or had_any(items, cases)) else None


def _absolute(content: dict[str, Any], root: Path) -> dict[str, Any]:
    """A datalist whose paths are not relative to a folder any more."""

    def anchored(entry: Any) -> Any:
        if isinstance(entry, list):
            return [anchored(one) for one in entry]
        return os.path.abspath(root / expanded(entry)) if isinstance(entry, str) else entry

    def item(entry: Any) -> Any:
        files = {key: anchored(entry[key]) for key in ("image", "label") if key in entry}
        return {**entry, **files}

    parts = {part: content[part] for part in PARTS if isinstance(content.get(part), list)}
    return content | {
        part: [item(entry) if isinstance(entry, dict) else entry for entry in entries]
        for part, entries in parts.items()
    }


def _written(content: Mapping[str, Any], work: Path) -> Path:
    replace_text(ensure_writable(work) / DATALIST, json.dumps(content, indent=1) + "\n")
    return work
