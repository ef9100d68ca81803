"""Which scans a dataset has, and which of them are labelled.

A dataset is a folder and a datalist, a JSON file whose paths are relative to that folder::

    {
        "name": "la",
        "labels": {"0": "background", "1": "left atrium"},
        "training": [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}],
        "unlabeled": [{"image": "images/b.nii.gz"}],
        "validation": [],
        "test": "remaining"
    }

"image" may be a list of files, one per modality. A "label_by" of "models" beside a label says that no hand drew it;
"labeled_slices", "labeled_classes" and "ignore" say that it is not whole (see `aps_components.data.partial`), and
"patient" beside an image says whose it is.
Only file names are looked at here, never a scan.
"""

import difflib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aps_components.data.errors import DataError
from aps_components.data.modalities import (
    common_name,
    is_nifti_name,
    names_modality,
    select_modalities,
    stem,
)
from aps_components.data.partial import CLASSES, IGNORE, KEYS, SLICES, parsed
from aps_components.files import expanded
from aps_components.plain_json import read_object, refuse_config_syntax
from aps_components.terminal import brief

Item = dict[str, Any]
File = str | os.PathLike[str]

DATALIST = "datalist.json"
PARTS = ("training", "unlabeled", "validation", "test")
FAULT = "fault"  # of an item that cannot be used: why
PATIENT = "patient"  # of a case: whose scan it is
TOP_KEYS, CASE_KEYS = ("name", "labels"), ("image", "label", "label_by", PATIENT)
COUNT = "num"  # how the Medical Segmentation Decathlon's counts begin, such as numTraining
ALIKE = 0.78  # of letters, from which on a key is another one mistyped
LABEL_BY, HAND, MODELS = "label_by", "hand", "models"


@dataclass(frozen=True)
class Datalist:
    """The cases of one dataset by part; every item holds absolute paths.

    Args:
        name: the dataset's short name.
        labels: class value to class name, background (0) included.
        labeled: items with "image" and "label", and what is said of a label that is not whole.
        unlabeled: items with "image" only, so that their labels cannot be read by mistake.
        validation: items with both, for choosing a checkpoint.
        test: items with both, for the final figures.
        labels_by_models: label files that models made, as `aps pseudo-label` does; the others are by hand.
    """

    name: str
    labels: dict[int, str]
    labeled: list[Item]
    unlabeled: list[Item]
    validation: list[Item]
    test: list[Item]
    labels_by_models: frozenset[str] = frozenset()

    @property
    def labeled_by_hand(self) -> int | None:
        """Number of the first labelled items whose label was drawn by hand; None where all were."""
        by_hand = [item["label"] not in self.labels_by_models for item in self.labeled]
        return None if all(by_hand) else by_hand.index(False)

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.labels)

    @property
    def training_items(self) -> list[Item]:
        """Labelled items (image and label), then unlabelled ones (image only)."""
        return [*self.labeled, *self.unlabeled]

    @property
    def evaluation_split(self) -> str:
        """ "test" if there are test cases, else "validation"."""
        return "test" if self.test else "validation"

    def part(self, name: str) -> list[Item]:
        """The items of "training", "validation" or "test"."""
        parts = {"training": self.training_items, "validation": self.validation, "test": self.test}
        if name not in parts:
            raise DataError(f"no part {name!r} in the datalist {self.name!r}: choose one of {sorted(parts)}")
        return parts[name]


def load_datalist(
    dataset_dir: str | os.PathLike[str],
    *,
    default: str | os.PathLike[str] | None = None,
    file: str | os.PathLike[str] | None = None,
    labeled_count: int | None = None,
    unlabeled_count: int | None = None,
    validation_count: int = 0,
    image_dir: str = "images",
    label_dir: str = "labels",
    modalities: Sequence[str] | None = None,
    counts_at_most: bool = False,
    ignore: int | None = None,
) -> Datalist:
    """Read a dataset's datalist and cut its training part into labelled and unlabelled cases.

    Args:
        dataset_dir: the dataset's folder; its own datalist.json is used if there is one.
        default: the datalist to use otherwise, such as the one a bundle ships.
        file: this datalist and no other.
        labeled_count: number of the first training cases that keep their labels; the rest become unlabelled.
            None keeps every label there is.
        unlabeled_count: number of the first unlabelled cases that are kept; None keeps all.
        validation_count: if the datalist names no validation cases, take this number of the last training cases,
            before the cut above.
        image_dir: where `"test": "remaining"` looks for scans that the list does not name.
        label_dir: where their labels lie, under the same file names.
        modalities: which files of a case to use, in channel order; a case whose image is one file with all the channels
            is left alone. None uses every file as the list names them.
        counts_at_most: the counts are those of a model that was trained on other data than these, perhaps: fewer
            labelled cases, also none, are right, and too few to take validation cases from leaves those out.
        ignore: value in the label files of a voxel that nobody labelled, where the list says none itself.
    """
    root = dataset_folder(dataset_dir)
    source = _datalist_file(root, default) if file is None else Path(file)
    content = read_datalist(source)
    remaining = content.get("test") == "remaining"
    named = [part for part in PARTS if not (part == "test" and remaining)]
    labels = _labels(content, source)
    parts = {part: _items(content, part, root, source, labels=labels) for part in named}
    if remaining:
        parts["test"] = _remaining(root / image_dir, root / label_dir, parts)
    everywhere = {IGNORE: ignore} if ignore is not None else {}
    everywhere |= parsed({IGNORE: content.get(IGNORE)}, labels=labels, where=str(source))
    parts = {part: [said_of_all(item, everywhere) for item in items] for part, items in parts.items()}
    _refuse_repeats(parts, source)
    if modalities is not None:
        parts = {part: [with_modalities(item, modalities) for item in items] for part, items in parts.items()}

    training = parts["training"]
    if validation_count < 0:
        raise DataError(f"validation_count {validation_count} must not be negative")
    if counts_at_most and validation_count >= len(training):
        validation_count = 0
    if not parts["validation"] and validation_count:
        if validation_count >= len(training):
            raise DataError(
                f"{source}: validation_count {validation_count} leaves none of the {len(training)} training cases to "
                "train on; lower it, or name validation cases in the datalist"
            )
        training, parts["validation"] = training[:-validation_count], training[-validation_count:]
        _require_labels(parts["validation"], f"{source}: validation_count {validation_count}")
        if not counts_at_most:  # else it is a model that is judged, which may have learned from other scans
            declared = declared_patients(content, root)
            _refuse_cut_patients([*training, *parts["unlabeled"]], parts["validation"], declared, source)
    by_models = _labels_by_models(content, root)
    for part in ("validation", "test"):
        asked = f"{source}: {part}_count {validation_count}" if part == "validation" and validation_count else ""
        _refuse_by_models(parts[part], by_models, asked or f"{source}: {part}")
    labeled, unlabeled = _cut(
        training,
        labeled_count,
        source,
        validation_count=len(parts["validation"]),
        at_most=counts_at_most,
    )
    unlabeled += [{"image": item["image"]} for item in parts["unlabeled"]]
    if unlabeled_count is not None and not 0 <= unlabeled_count <= len(unlabeled):
        raise DataError(
            f"unlabeled_count {unlabeled_count} is outside 0 to {len(unlabeled)}, the unlabelled cases of {source}"
        )
    return Datalist(
        name=_name(content, source),
        labels=labels,
        labeled=labeled,
        unlabeled=unlabeled[:unlabeled_count],
        validation=parts["validation"],
        test=parts["test"],
        labels_by_models=by_models,
    )


def scans_in(folder: Path) -> list[Path]:
    """The NIfTI files of a folder, sorted; hidden files, such as macOS's `._a.nii.gz`, are left out."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return [folder / name for name in names if is_nifti_name(name) and not name.startswith(".")]


def files_of(entry: File | Sequence[File]) -> list[str]:
    """The files of an item's entry, which is one file or a list of them."""
    entries = [entry] if isinstance(entry, str | os.PathLike) else entry
    return [os.fspath(file) for file in entries]


def with_hash(path: File) -> str:
    """A path as it was typed: in every text of a configuration MONAI puts "::" in the place of "#"."""
    text = os.fspath(path)
    typed = text.replace("::", "#")
    return typed if os.path.exists(typed) and not os.path.exists(text) else text


def case_name(item: Mapping[str, Any]) -> str:
    """An item's case name: that of its image file without .nii or .nii.gz, or what the names of several share."""
    files = files_of(item["image"])
    return common_name(files) if len(files) > 1 else stem(files[0])


def relative_item(item: Mapping[str, Any], folder: File) -> Item:
    """An item as a datalist in ``folder`` names it; its paths are joined by name alone, whatever is a link."""

    def relative(value: Any) -> Any:
        return (
            [os.path.relpath(file, folder) for file in value]
            if isinstance(value, list)
            else os.path.relpath(value, folder)
        )

    return {key: value if key in KEYS else relative(value) for key, value in item.items()}


def datalist_of(
    name: str,
    labels: Mapping[Any, str],
    *,
    folder: File,
    training: Sequence[Item],
    unlabeled: Sequence[Item],
    validation: Sequence[Item],
    test: Sequence[Item] = (),
) -> dict[str, Any]:
    """What ``datalist.json`` in a folder holds.

    Args:
        name: of the dataset.
        labels: class value to name.
        folder: to which its paths are relative.
        training, unlabeled, validation, test: items with absolute paths.
    """
    parts = {"training": training, "unlabeled": unlabeled, "validation": validation, "test": test}
    return {
        "name": name,
        "labels": {str(value): text for value, text in labels.items()},
        **{part: [relative_item(item, folder) for item in items] for part, items in parts.items()},
    }


def with_modalities(item: Item, modalities: Sequence[str]) -> Item:
    """The item with the files of these modalities; a single file named after none holds all the channels."""
    files = files_of(item["image"])
    if len(files) == 1 and not names_modality(files[0], modalities):
        return item
    chosen = select_modalities(files, modalities)
    return {**item, "image": chosen if len(chosen) > 1 else chosen[0]}


def refuse_same_names(items: Iterable[Item]) -> None:
    """What is made of a case, a file or figures, is kept by its name: two of one name would be one.

    Raises:
        DataError: two cases have the same; which, and the mend.
    """
    seen: dict[str, str] = {}
    for item in items:
        file = files_of(item["image"])[0]
        if (other := seen.setdefault(case_name(item), file)) is not file:
            raise DataError(
                f"{file} and {other} are both named {case_name(item)!r}, by which results are kept: rename one"
            )


def dataset_folder(dataset_dir: File) -> Path:
    """A dataset's folder, absolute; raises ``DataError`` where there is none."""
    root = Path(os.path.abspath(expanded(with_hash(dataset_dir))))
    if not root.is_dir():
        raise DataError(f"{root}: no such dataset folder; set dataset_dir to the folder of the scans")
    return root


def _datalist_file(root: Path, default: str | os.PathLike[str] | None) -> Path:
    own = root / DATALIST
    if own.is_file():
        return own
    if default is None:
        raise DataError(f"{own}: no such file; write a datalist there with its name, labels and training cases")
    if not Path(default).is_file():
        raise DataError(
            f"{own}: no such file, and no {default} either; write a datalist, or let `aps prepare` write it from an "
            "official download"
        )
    return Path(default)


def read_datalist(source: Path, *, keys: Sequence[str] = ("name", "labels", "training")) -> dict[str, Any]:
    """The content of a datalist as it stands, with nothing in its name and labels that a configuration would run."""
    if source.suffix.lower() != ".json":
        raise DataError(f"{source}: no datalist, which is a .json file; give one, or the folder that the scans lie in")
    content = read_object(source, keys=keys, error=DataError)
    _refuse_mistyped(content, (*TOP_KEYS, *PARTS, *KEYS), where=source)
    for key in (SLICES, CLASSES):
        if content.get(key) is not None:
            raise DataError(f"{source}: {key} stands at the top, where nothing reads it: write it beside each label")
    # These two go on into settings and configurations; a path of a scan does not, as it stands.
    for key in sorted({"name", "labels"} & content.keys()):
        refuse_config_syntax(content[key], where=f"{source}: {key}", error=DataError)
    return content


def _refuse_mistyped(entry: Mapping[str, Any], known: Collection[str], *, where: str | Path) -> None:
    """Others' datalists say more than is asked here; but a "validaton" or "lable" would be passed over in silence."""
    for key in sorted(entry.keys() - set(known)):
        if key.startswith(COUNT):
            continue
        if near := difflib.get_close_matches(key.lower(), known, n=1, cutoff=ALIKE):
            raise DataError(f"{where}: no key {brief(repr(key))} is known; did you mean {near[0]!r}?")


def _name(content: dict[str, Any], source: Path) -> str:
    name = content["name"]
    if not isinstance(name, str) or not name:
        raise DataError(f"{source}: name is {brief(repr(name))}; give the dataset a short name")
    return name


def _labels(content: dict[str, Any], source: Path) -> dict[int, str]:
    try:
        labels = {int(value): name for value, name in content["labels"].items()}
    except (AttributeError, ValueError):
        labels = {}
    are_texts = all(isinstance(name, str) and name.strip() for name in labels.values())
    if len(labels) < 2 or sorted(labels) != list(range(len(labels))) or not are_texts:
        raise DataError(
            f"{source}: labels is {brief(repr(content['labels']))}; map each class value 0, 1, ... without a gap to "
            "its name, a text"
        )
    return dict(sorted(labels.items()))


def _items(content: dict[str, Any], part: str, root: Path, source: Path, *, labels: dict[int, str]) -> list[Item]:
    entries = content.get(part, [])
    if not isinstance(entries, list):
        raise DataError(f"{source}: {part} is {brief(repr(entries))}; it must be a list of cases")
    items = [_item(entry, root, f"{source}: {part}[{index}]", labels=labels) for index, entry in enumerate(entries)]
    if part in ("validation", "test"):
        _require_labels(items, f"{source}: {part}")
    return items


def _item(entry: object, root: Path, where: str, *, labels: dict[int, str]) -> Item:
    if not isinstance(entry, dict) or not entry.get("image"):
        raise DataError(f'{where} is {brief(entry)}; it needs an "image", a path relative to {root}')
    _refuse_mistyped(entry, (*CASE_KEYS, *KEYS), where=where)
    files = entry["image"]
    several = isinstance(files, list)
    label = entry.get("label")
    if not all(isinstance(file, str) and "\0" not in file for file in (*(files if several else [files]), label or "")):
        raise DataError(f"{where} is {brief(entry)}; image and label must be file names")
    if entry.get(LABEL_BY, HAND) not in (HAND, MODELS):
        raise DataError(f'{where}: {LABEL_BY} is {brief(repr(entry[LABEL_BY]))}; it must be "{HAND}" or "{MODELS}"')
    paths = [located(root, file) for file in (files if several else [files])]
    item: Item = {"image": paths if several else paths[0]}
    if not label:
        return item
    return item | {"label": located(root, label)} | parsed(entry, labels=labels, where=where)


def said_of_all(item: Item, everywhere: Mapping[str, Any]) -> Item:
    """An item with what holds of every label; what it says itself comes before."""
    return {**item, **{key: value for key, value in everywhere.items() if key not in item}} if "label" in item else item


def listed_entries(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cases of all parts as they stand in a datalist; a part may be a word in place of a list."""
    return [entry for part in PARTS if isinstance(content.get(part), list) for entry in content[part]]


def declared_patients(content: Mapping[str, Any], root: Path) -> dict[str, str]:
    """Whose scan an image file is, by its absolute path, where the datalist says it."""
    return {
        located(root, file): str(entry[PATIENT])
        for entry in listed_entries(content)
        if entry.get(PATIENT) is not None
        for file in files_of(entry["image"])
    }


def same_patient(learned: Iterable[Item], kept: Iterable[Item], declared: Mapping[str, str]) -> tuple[str, str] | None:
    """Names of a case that is kept apart and of one of the same patient that is learned from; None without such two.

    Args:
        learned, kept: items.
        declared: by image file, see :func:`declared_patients`.
    """
    seen = {patient: item for item in learned if (patient := declared.get(files_of(item["image"])[0]))}
    for item in kept:
        if other := seen.get(declared.get(files_of(item["image"])[0], "")):
            return case_name(item), case_name(other)
    return None


def _refuse_cut_patients(
    learned: Iterable[Item], kept: Sequence[Item], declared: Mapping[str, str], source: Path
) -> None:
    """The last cases are taken by their number, whoever they are of."""
    if found := same_patient(learned, kept, declared):
        raise DataError(
            f"{source}: validation_count {len(kept)} keeps {found[0]} apart, and {found[1]} of the same patient is "
            "learned from: figures would be too good; take another validation_count, or name the validation cases in "
            "the datalist"
        )


def _labels_by_models(content: dict[str, Any], root: Path) -> frozenset[str]:
    made = [e["label"] for e in listed_entries(content) if "label" in e and e.get(LABEL_BY) == MODELS]
    return frozenset(located(root, label) for label in made)


def located(root: Path, file: str) -> str:
    """A file that is named from a dataset's folder, absolute; joined by name alone: ".." means the folder above, also
    where the folder is a link."""
    return os.path.abspath(root / expanded(file))


def _remaining(image_dir: Path, label_dir: Path, parts: dict[str, list[Item]]) -> list[Item]:
    """Every labelled scan of the folder that no other part names."""
    named = {file for items in parts.values() for item in items for file in files_of(item["image"])}
    labelled = {file.name for file in scans_in(label_dir)}
    return [
        {"image": str(file), "label": str(label_dir / file.name)}
        for file in scans_in(image_dir)
        if str(file) not in named and file.name in labelled
    ]


def _refuse_repeats(parts: dict[str, list[Item]], source: Path) -> None:
    """By the file itself, to which a path may lead through links, and which may have several names."""
    images: dict[tuple[int, int] | str, tuple[str, str]] = {}
    labels: dict[tuple[int, int] | str, str] = {}
    for part, items in parts.items():
        for item in items:
            for file in files_of(item["image"]):
                if (key := _file_itself(file)) in images:
                    other, there = images[key]
                    same = "" if other == file else f", the same file as {other},"
                    raise DataError(f"{source}: {file}{same} is in {there} and again in {part}; name each scan once")
                images[key] = file, part
            if "label" in item:
                if (key := _file_itself(item["label"])) in labels:
                    raise DataError(
                        f"{source}: {item['label']} is the label of {labels[key]} and of {files_of(item['image'])[0]}; "
                        "give each scan its own"
                    )
                labels[key] = files_of(item["image"])[0]


def _file_itself(file: str) -> tuple[int, int] | str:
    """The same for all names of a file; of one that is not there its path."""
    try:
        facts = os.stat(file)
    except OSError:
        return os.path.realpath(file)
    return facts.st_dev, facts.st_ino


def _require_labels(items: list[Item], where: str) -> None:
    for item in items:
        if "label" not in item:
            raise DataError(f'{where}: {item["image"]} has no "label"; add it, or move the case to "unlabeled"')


def _refuse_by_models(items: list[Item], by_models: frozenset[str], where: str) -> None:
    """What a model is measured on must not be what others like it said."""
    for item in items:
        if item["label"] in by_models:
            raise DataError(
                f"{where}: the label of {item['image']} was made by models, and figures on it mean nothing; name "
                'scans there whose labels are by hand, under "validation" or "test"'
            )


def _cut(
    training: list[Item], labeled_count: int | None, source: Path, *, validation_count: int, at_most: bool
) -> tuple[list[Item], list[Item]]:
    """The first `labeled_count` cases that have a label, and the others stripped of theirs."""
    with_label = [item for item in training if "label" in item]
    if at_most and len(with_label) < (labeled_count or 1):
        labeled_count = len(with_label)
    elif not with_label:
        kept = f" beside the {validation_count} that validate; lower validation_count, or" if validation_count else ";"
        raise DataError(f"{source}: empty label list: no training case is left with a label{kept} label at least one")
    count = len(with_label) if labeled_count is None else labeled_count
    if not at_most and not 1 <= count <= len(with_label):
        raise DataError(
            f"labeled_count {count} is outside 1 to {len(with_label)}, the labelled training cases of {source}; "
            "lower labeled_count or label more cases"
        )
    labeled = with_label[:count]
    return labeled, [{"image": item["image"]} for item in training if item not in labeled]
