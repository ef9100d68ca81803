"""The cases of a folder that nobody wrote a datalist for: images on one side, fewer labels on the other.

Two layouts are found by themselves: ``images/`` and ``labels/``, and nnU-Net's ``imagesTr/`` and ``labelsTr/``
(Isensee et al. 2021, doi:10.1038/s41592-020-01008-z). A label belongs to the image of the same name. Where image
files end in a channel number (``a_0000.nii.gz``, ``a_0001.nii.gz``), they are the channels of one case, ``a``.
Only file names are looked at here, never a scan.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aps_components.data.datalist import Item, located, scans_in
from aps_components.data.errors import DataError
from aps_components.data.modalities import stem
from aps_components.data.partial import SLICES
from aps_components.files import expanded
from aps_components.plain_json import read_object, refuse_config_syntax
from aps_components.terminal import brief

LAYOUTS = (("images", "labels"), ("imagesTr", "labelsTr"))
MEND_DECLARATION = "mend it, move it away, or name the classes by --labels"
DECLARATION = "dataset.json"  # of nnU-Net and of the Medical Segmentation Decathlon
NOT_A_CLASS = "ignore"  # nnU-Net's name for voxels without a label
CHANNEL = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class Case:
    """One case; its files are relative to the dataset's folder, with "/" between their parts.

    Attributes:
        name: of the case.
        images, label: its files.
        said: of a label that is not whole, as a datalist has it; see `aps_components.data.partial`.
    """

    name: str
    images: tuple[str, ...]
    label: str | None
    said: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def item(self) -> Item:
        """As a datalist has it."""
        image = self.images[0] if len(self.images) == 1 else list(self.images)
        return {"image": image} | ({"label": self.label, **self.said} if self.label else {})


@dataclass(frozen=True)
class CaseFolder:
    """What a dataset's folder holds.

    Attributes:
        root: the folder, absolute.
        images, labels: its two sub-folders, relative to it.
        cases: sorted by name.
        channel_tokens: "0000", "0001", ... where the image files end in them, else empty.
        labels_without_image: label files to which no image belongs.
        faults: cases that are left out, a line each.
        ignore: value in the label files of a voxel that nobody labelled.
    """

    root: Path
    images: str
    labels: str
    cases: list[Case]
    channel_tokens: tuple[str, ...]
    labels_without_image: list[str]
    faults: list[str]
    ignore: int | None = None

    def item(self, case: Case) -> Item:
        """A case of it as a datalist has it, with absolute paths."""

        def absolute(value: Any) -> Any:
            if isinstance(value, list):
                return [absolute(file) for file in value]
            return located(self.root, value)

        return {key: value if key in case.said else absolute(value) for key, value in case.item.items()}

    def told(self, *, ignore: int | None, slices: Any = None) -> CaseFolder:
        """The same with what is said of all labels; what a case says itself stays.

        Args:
            ignore: see above; None leaves it.
            slices: as a datalist has "labeled_slices"; None for all of them.
        """
        said = {} if slices is None else {SLICES: slices}
        return replace(
            self,
            ignore=self.ignore if ignore is None else ignore,
            cases=[replace(case, said={**said, **case.said}) if case.label else case for case in self.cases],
        )


def find_cases(data: str | os.PathLike[str], *, images: str | None = None, labels: str | None = None) -> CaseFolder:
    """Find images, and the labels that belong to them, by their names.

    Args:
        data: the dataset's folder.
        images: its sub-folder of images; None looks for one of `LAYOUTS`.
        labels: its sub-folder of labels; None as above.
    """
    root = Path(os.path.abspath(expanded(data)))
    if not root.is_dir():
        what = "a file" if root.exists() else "no such folder"
        raise DataError(f"{root}: {what}; give the folder that holds images/ and labels/")
    image_dir, label_dir = _sub_folders(root, images, labels)
    image_stems = _by_stem(_scans(root, image_dir))
    label_stems = _by_stem(_scans(root, label_dir))
    groups, tokens, faults = _group(image_stems, set(label_stems), image_dir)
    if not groups.keys() & label_stems.keys():
        raise DataError(
            f"{root}: no label belongs to an image: {label_dir}/ holds {_first(label_stems.values())}, {image_dir}/ "
            f"holds {_first(image_stems.values())}; give a label the name of its image (without a channel number)"
        )
    named = groups.keys() | {fault.partition(":")[0] for fault in faults}
    return CaseFolder(
        root=root,
        images=image_dir,
        labels=label_dir,
        cases=[Case(name, files, label_stems.get(name)) for name, files in sorted(groups.items())],
        channel_tokens=tokens,
        labels_without_image=[file for stem, file in sorted(label_stems.items()) if stem not in named],
        faults=faults,
    )


def declared_labels(root: Path) -> dict[int, str]:
    """The class names of nnU-Net's or the Medical Segmentation Decathlon's dataset.json, by value; {} if there is none.

    The one writes ``{"liver": 1}``, the other ``{"1": "liver"}``. Values that stand in nnU-Net's regions alone, see
    `declared_regions`, are named after the region of this value alone, or by their number. nnU-Net's "ignore" is among
    them: see `without_ignored`.

    Raises:
        DataError: the file is damaged, or declares what is no class.
    """
    file, mend = root / DECLARATION, MEND_DECLARATION
    entries = _declared(root)
    pairs = [(key, name) if str(key).isdecimal() else (name, key) for key, name in entries.items()]
    pairs = [(value, name) for value, name in pairs if not isinstance(value, list)]
    for value, name in pairs:
        if not str(value).isdecimal():
            raise DataError(
                f"{file}: the class {brief(repr(name))} has the value {brief(repr(value))}; it must be a whole number; "
                f"{mend}"
            )
        if not isinstance(name, str):
            raise DataError(f"{file}: the class {value} has the name {brief(repr(name))}; it must be a text; {mend}")
    names = {int(value): name for value, name in pairs}
    if len(names) < len(pairs):
        raise DataError(f"{file}: labels {brief(entries)} gives a value two names; {mend}")
    regions = declared_regions(root)
    alone = {values[0]: name for name, values in regions.items() if len(values) == 1}
    of_regions = {value: alone.get(value, f"label {value}") for values in regions.values() for value in values}
    return {**of_regions, **names}


def declared_regions(root: Path) -> dict[str, list[int]]:
    """nnU-Net's regions in dataset.json: name to the values of its classes, as in ``{"whole tumour": [1, 2, 3]}``.

    Raises:
        DataError: the file is damaged, or a region holds what is no value.
    """
    regions = {str(name): values for name, values in _declared(root).items() if isinstance(values, list)}
    for name, values in regions.items():
        if not values or not all(str(value).isdecimal() for value in values):
            raise DataError(
                f"{root / DECLARATION}: the region {brief(repr(name))} is {brief(repr(values))}; it must be a list of "
                f"whole numbers; {MEND_DECLARATION}"
            )
    return {name: sorted({int(value) for value in values} - {0}) for name, values in regions.items()}


def _declared(root: Path) -> dict[str, Any]:
    """What dataset.json says of labels; nothing if there is none."""
    file = root / DECLARATION
    if not file.exists():
        return {}
    entries = read_object(file, bom=True, mend=MEND_DECLARATION, error=DataError).get("labels")
    if entries is None:
        return {}
    if not isinstance(entries, dict):
        raise DataError(f"{file}: labels is {brief(repr(entries))}; it must map names to values; {MEND_DECLARATION}")
    refuse_config_syntax(entries, where=f"{file}: labels", error=DataError)
    return entries


def without_ignored(names: Mapping[int, str] | None) -> tuple[dict[int, str] | None, int | None]:
    """Names of values without that of "ignore", as nnU-Net calls voxels that nobody labelled, and its value.

    Raises:
        DataError: two values, or 0, which is the background, have that name.
    """
    if names is None:
        return None, None
    ignored = [value for value, name in names.items() if name.strip().lower() == NOT_A_CLASS]
    if len(ignored) > 1 or 0 in ignored:
        raise DataError(
            f'the values {ignored} are named "{NOT_A_CLASS}": name one value of the label files so, and not 0, the '
            "background"
        )
    return {value: name for value, name in names.items() if value not in ignored}, next(iter(ignored), None)


def _sub_folders(root: Path, images: str | None, labels: str | None) -> tuple[str, str]:
    """The names of the two sub-folders, those that are not given looked for."""
    image_dir = _inside(root, images) if images else next((a for a, _ in LAYOUTS if (root / a).is_dir()), None)
    if image_dir is None:
        there = [entry.name + "/" for entry in sorted(root.iterdir()) if entry.is_dir()]
        raise DataError(
            f"{root}: no folder of images in it (images/ or imagesTr/); "
            f"it holds {', '.join(there[:8]) or 'no folder at all'}; put the scans into images/ and their labels into "
            "labels/ (aps train and aps new-bundle take other names by --images and --labels_dir)"
        )
    partners = [b for a, b in LAYOUTS if a == image_dir] or [b for _, b in LAYOUTS]
    label_dir = _inside(root, labels) if labels else next((b for b in partners if (root / b).is_dir()), partners[0])
    if label_dir == image_dir:
        raise DataError(f"{root / image_dir}: both the images' and the labels' folder; put the labels into another one")
    return image_dir, label_dir


def _inside(root: Path, folder: str) -> str:
    relative = Path(os.path.relpath(root / expanded(folder), root)).as_posix()
    if relative.startswith(".."):
        raise DataError(f"{folder}: lies outside {root}; a datalist's paths are relative to it: give the folder above")
    return relative


def _scans(root: Path, folder: str) -> list[str]:
    place = root / folder
    if not place.is_dir():
        what = "a file where a folder is wanted" if place.exists() else "no such folder"
        raise DataError(f"{place}: {what}; put the scans there, or name another by --images or --labels_dir")
    files = [f"{folder}/{path.name}" for path in scans_in(place)]
    if not files:
        raise DataError(
            f"{place}: no .nii or .nii.gz file in this folder; put some there, or convert the scans to NIfTI"
        )
    return files


def _by_stem(files: Iterable[str]) -> dict[str, str]:
    stems: dict[str, str] = {}
    for file in files:
        name = stem(file)
        if name in stems:
            raise DataError(f"{stems[name]} and {file} have the same name; remove one of them")
        stems[name] = file
    return stems


def _group(
    images: dict[str, str], labels: set[str], folder: str
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...], list[str]]:
    """Image files by case, the channel numbers that they end in, and what is wrong with them."""
    numbered: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for name, file in images.items():
        if found := CHANNEL.fullmatch(name):
            numbered[found[1]][found[2]] = file
    if len(labels & numbered.keys()) <= len(labels & images.keys()):
        return {name: (file,) for name, file in images.items()}, (), []

    faults = [
        f"{name}: {file} ends in no channel number while others in {folder}/ do; name it {name}_0000"
        for name, file in images.items()
        if not CHANNEL.fullmatch(name)
    ]
    tokens = Counter(tuple(sorted(files)) for files in numbered.values()).most_common(1)[0][0]
    for name, files in numbered.items():
        if tuple(sorted(files)) != tokens:
            faults.append(
                f"{name}: channels {', '.join(sorted(files))} in {folder}/ where other cases have {', '.join(tokens)}; "
                "add or remove files"
            )
    complete = {name: files for name, files in numbered.items() if tuple(sorted(files)) == tokens}
    return {name: tuple(files[token] for token in tokens) for name, files in complete.items()}, tokens, faults


def _first(files: Iterable[str]) -> str:
    listed = [os.path.basename(file) for file in files]
    return ", ".join(listed[:2]) + (", ..." if len(listed) > 2 else "")
