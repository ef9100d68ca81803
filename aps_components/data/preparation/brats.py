"""BraTS 2019 to 2023, gliomas: NIfTI as it is; nothing is copied or converted.

Four scans of one head: T1, T1 with contrast, T2 and FLAIR, which are t1n, t1c, t2w and t2f since 2023. Enhancing tumour
is 4 in the labels up to 2021 and 3 since. The published split of the 335 cases of 2019 is 250, 25 and 60; which cases
those were is not the same from paper to paper, so the order here is that of the names' hashes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from aps_components.data.modalities import is_nifti_name
from aps_components.data.preparation.cases import Findings, Outcome, RawCase, Split, nothing_found, stem_of, walk
from aps_components.data.preparation.split import divide
from aps_components.data.preparation.volumes import check_nifti

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
ALIASES = {"t1": "t1n", "t1ce": "t1c", "t1gd": "t1c", "t2": "t2w", "flair": "t2f"}
SEGMENTATION = {"seg", "segm"}  # one label of 2020 is named W39_1998.09.19_Segm.nii
PUBLISHED = {"training": 250, "validation": 25, "test": 60}
OLD_ENHANCING, ENHANCING = 4, 3


@dataclass
class Group:
    """The files of one folder that share their name up to the last word."""

    images: dict[str, str] = field(default_factory=dict)
    label: str | None = None


@dataclass(frozen=True)
class Brats:
    """The layout; it has no options."""

    name: ClassVar[str] = "brats"
    labels: ClassVar[Mapping[int, str]] = {0: "background", 1: "necrotic core", 2: "oedema", 3: "enhancing tumour"}

    def find(self, raw: Path, *, skip: Path) -> Findings:
        """Cases anywhere below `raw`: one folder each, or all files in one."""
        findings = Findings()
        for folder, folders, files in walk(raw, skip=skip):
            for name, group in _groups(folder, folders, files).items():
                missing = [modality for modality in MODALITIES if modality not in group.images]
                if missing:
                    there = ", ".join([*sorted(group.images), *(["seg"] if group.label else [])])
                    findings.left_out[name] = f"{folder}: no {', '.join(missing)}; there is {there}: download it again"
                else:
                    images = tuple(group.images[modality] for modality in MODALITIES)
                    findings.add(RawCase(name, images, group.label))
        if not findings.cases and not findings.left_out:
            raise nothing_found(
                raw, "files like CASE-t1n.nii.gz (or _t1), -t1c (_t1ce), -t2w (_t2), -t2f (_flair), -seg"
            )
        return findings

    def split(self, cases: list[RawCase], *, seed: int, validation: int | None, labeled: int | None) -> Split:
        """250, 25 and 60, or in these proportions."""
        return divide(cases, published=PUBLISHED, seed=seed, validation=validation, name="of 2019")

    def processing(self) -> dict[str, Any]:
        """No option changes how a case is read."""
        return {}

    def process(self, case: RawCase, out: Path) -> Outcome:
        """Check the case."""
        return check_nifti(case, out, num_classes=len(self.labels), rename={OLD_ENHANCING: ENHANCING})

    def remarks(self, outcomes: Collection[Outcome]) -> list[str]:
        """Which number enhancing tumour has."""
        values = [set(outcome.facts.get("label_values", [])) for outcome in outcomes]
        old, new = (sum(value in found for found in values) for value in (OLD_ENHANCING, ENHANCING))
        notes = []
        if old:
            notes.append(f"enhancing tumour is {OLD_ENHANCING} in {old} labels; bundles/brats maps it to {ENHANCING}")
        if new:
            notes.append(f"enhancing tumour is {ENHANCING} in {new} labels")
        return notes


def _groups(folder: Path, folders: list[str], files: list[str]) -> dict[str, Group]:
    """The files of one folder by case name."""
    groups: dict[str, Group] = {}
    for name, path in _scans(folder, folders, files):
        match = re.fullmatch(r"(.+)[-_.]([^-_.]+)", stem_of(name))
        if match is None:
            continue
        word = match[2].lower()
        modality = ALIASES.get(word, word)
        if word in SEGMENTATION:
            group = groups.setdefault(match[1], Group())
            group.label = group.label or path
        elif modality in MODALITIES:
            groups.setdefault(match[1], Group()).images.setdefault(modality, path)
    cases = [group for group in groups.values() if group.images]
    stray = [name for name, group in groups.items() if not group.images]
    if len(cases) == len(stray) == 1 and not cases[0].label:  # a label under another name, in its case's folder
        cases[0].label = groups.pop(stray[0]).label
    return groups


def _scans(folder: Path, folders: list[str], files: list[str]) -> Iterator[tuple[str, str]]:
    """NIfTI files by the name that tells what they are; `X_t1.nii/` with one scan in it stands for `X_t1.nii`."""
    if is_nifti_name(folder):
        return
    for name in files:
        if is_nifti_name(name):
            yield name, str(folder / name)
    for name in folders:
        if is_nifti_name(name):
            inside = [file for file in sorted(os.listdir(folder / name)) if _is_scan(folder / name / file)]
            if len(inside) == 1:
                yield name, str(folder / name / inside[0])


def _is_scan(path: Path) -> bool:
    return is_nifti_name(path) and not path.name.startswith(".") and path.is_file()
