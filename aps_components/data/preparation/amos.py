"""AMOS 2022 (Ji et al., NeurIPS 2022): abdominal CT and MR, NIfTI as it is; nothing is copied or converted.

The published splits keep nine tenths of imagesTr for training and take imagesVa as the test: of CT alone 180 for
training (18 or 90 of them labelled) and 20 for validation, of CT and MR together 216 and 24, with 120 test scans. Which
scans those were is not published, so the order here is that of the names' hashes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from aps_components.data.datalist import scans_in
from aps_components.data.errors import DataError
from aps_components.data.preparation.cases import Findings, Outcome, RawCase, Split, nothing_found, stem_of
from aps_components.data.preparation.split import divide, rule_of, shuffled
from aps_components.data.preparation.volumes import check_nifti
from aps_components.plain_json import read_object

ORGANS = (
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "oesophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
    "duodenum",
    "bladder",
    "prostate/uterus",
)
LAST_CT = 500  # case numbers above it are MR
SPLITS = {
    "ct": {"training": 180, "validation": 20},
    "mr": {"training": 36, "validation": 4},
    "all": {"training": 216, "validation": 24},
}
PROTOCOLS = {"180": "ct", "216": "all"}
FOLDERS = {"Tr": False, "Va": True}  # images and labels, and whether they are the test's
LISTED = {"training": "Tr", "validation": "Va"}  # part of dataset.json -> folder
MODALITY_WORDS = {"ct": "ct", "mr": "mr", "mri": "mr"}


@dataclass(frozen=True)
class Amos:
    """The layout, and which of its scans are taken.

    Args:
        modality: "ct", "mr" or "all"; None takes the protocol's, or else "ct".
        protocol: "180" (CT) or "216" (CT and MR), the published splits by their number of training scans; None takes
            the modality's. MR alone has no published split; its scans are divided like the others.
    """

    modality: str | None = None
    protocol: str | int | None = None

    name: ClassVar[str] = "amos"
    labels: ClassVar[Mapping[int, str]] = {0: "background", **dict(enumerate(ORGANS, start=1))}

    def __post_init__(self) -> None:
        if self.modality not in (None, *SPLITS):
            raise DataError(f"modality {self.modality!r} is none of {', '.join(SPLITS)}")
        if self.protocol is None:
            return
        if str(self.protocol) not in PROTOCOLS:
            raise DataError(f"protocol {self.protocol!r} is none of {', '.join(PROTOCOLS)}")
        wanted = PROTOCOLS[str(self.protocol)]
        if self.modality not in (None, wanted):
            raise DataError(
                f"protocol {self.protocol} is of modality {wanted}, not {self.modality}; leave one of them out"
            )

    @property
    def scans(self) -> str:
        """ "ct", "mr" or "all"."""
        return self.modality or (PROTOCOLS[str(self.protocol)] if self.protocol is not None else "ct")

    def find(self, raw: Path, *, skip: Path) -> Findings:
        """The scans of imagesTr and imagesVa and what dataset.json names besides."""
        root, findings = _root(raw), Findings()
        listed, missing = _listed(root, findings)
        for folder, held_back in FOLDERS.items():
            labels = {stem_of(str(file)): str(file) for file in scans_in(root / f"labels{folder}")}
            files = {str(file): labels.get(stem_of(str(file))) for file in scans_in(root / f"images{folder}")}
            for image, label in listed[folder].items():
                files[image] = files.get(image) or label
            for image, label in files.items():
                self._add(RawCase(stem_of(image), (image,), label, held_back), findings)
        if not findings.cases and not findings.left_out:
            raise nothing_found(raw, f"imagesTr/*.nii.gz and labelsTr of {self.scans} scans (--modality)")
        if missing:
            findings.notes.append(f"{missing} scans that dataset.json names are not there")
        if apart := len(scans_in(root / "imagesTs")):
            findings.notes.append(
                f"imagesTs: {apart} scans of the challenge's own test, without public labels: not used"
            )
        return findings

    def split(self, cases: list[RawCase], *, seed: int, validation: int | None, labeled: int | None) -> Split:
        """imagesTr into training and validation, imagesVa as the test."""
        own = [case for case in cases if not case.held_back]
        published = SPLITS[self.scans]
        split = divide(own, published=published, seed=seed, validation=validation, name=f"of {self.scans} scans")
        test = [case for case in shuffled(cases, seed=seed) if case.held_back]
        bare = {case.name: "imagesVa without a label in labelsVa cannot be measured" for case in test if not case.label}
        parts = split.parts | {"test": [case for case in test if case.label]}
        notes = list(split.notes)
        if self.scans == "mr":
            notes.append("MR alone has no published split; imagesTr is divided 9 to 1 like the others")
        if not test:
            notes.append("no imagesVa: no test scans")
        return Split(parts, f"imagesTr: {rule_of(seed)}, the last tenth for validation; imagesVa: test", bare, notes)

    def processing(self) -> dict[str, Any]:
        """No option changes how a case is read."""
        return {}

    def process(self, case: RawCase, out: Path) -> Outcome:
        """Check the case."""
        return check_nifti(case, out, num_classes=len(self.labels))

    def remarks(self, outcomes: Collection[Outcome]) -> list[str]:
        """Classes that no label holds."""
        seen = {value for outcome in outcomes for value in outcome.facts.get("label_values", [])}
        absent = [name for value, name in self.labels.items() if value not in seen]
        return [f"no label that was read holds {', '.join(absent)}"] if seen and absent else []

    def _add(self, case: RawCase, findings: Findings) -> None:
        modality = _modality(case.name)
        if modality is None:
            findings.left_out[case.name] = "no case number in its name tells CT from MR; name it amos_0001 and so on"
        elif self.scans in ("all", modality):
            findings.add(case)


def _root(raw: Path) -> Path:
    """The folder with imagesTr: `raw`, or the one folder in it that has it."""

    def holds(folder: Path) -> bool:
        return any((folder / f"images{name}").is_dir() for name in FOLDERS)

    if holds(raw):
        return raw
    inside = [raw / name for name in sorted(os.listdir(raw)) if holds(raw / name)]
    if len(inside) == 1:
        return inside[0]
    if inside:
        raise DataError(
            f"{raw}: imagesTr in {', '.join(folder.name for folder in inside)}; name one of them with --raw"
        )
    raise nothing_found(raw, "the folders imagesTr and labelsTr, imagesVa and labelsVa")


def _listed(root: Path, findings: Findings) -> tuple[dict[str, dict[str, str | None]], int]:
    """What dataset.json names and is there, folder -> image -> label, and how many scans it names in vain."""
    listed: dict[str, dict[str, str | None]] = {folder: {} for folder in FOLDERS}
    source, missing = root / "dataset.json", 0
    if not source.is_file():
        return listed, 0
    try:
        content = read_object(source)
        entries = [(folder, entry) for part, folder in LISTED.items() for entry in content.get(part, [])]
    except (ValueError, AttributeError, TypeError) as error:
        findings.notes.append(f"{source.name} is passed over: not a dataset.json ({error})")
        return listed, 0
    for folder, entry in entries:
        names = {"image": entry} if isinstance(entry, str) else entry
        if not isinstance(names, dict) or not isinstance(names.get("image"), str):
            findings.notes.append(f"{source.name}: {entry!r} names no image: passed over")
            continue
        image, label = (_inside(root, names.get(key)) for key in ("image", "label"))
        if image is None:
            findings.left_out[names["image"]] = f"{source.name} names it outside the download; mend its path"
        elif not os.path.isfile(image):
            missing += 1
        else:
            listed[folder][image] = label if label and os.path.isfile(label) else None
    return listed, missing


def _inside(root: Path, name: object) -> str | None:
    """A path of dataset.json, if it stays inside the download."""
    path = os.path.normpath(root / str(name)) if isinstance(name, str) else ""
    return path if path.startswith(f"{os.path.normpath(root)}{os.sep}") else None


def _modality(name: str) -> str | None:
    """By the words ct or mr in a name, or else its case number: amos_0507 is MR."""
    tokens = re.split(r"[-_. ]", name.lower())
    word = next((MODALITY_WORDS[token] for token in tokens if token in MODALITY_WORDS), None)
    number = next((int(token) for token in tokens if token.isdecimal()), None)
    if word or number is None:
        return word
    return "ct" if number <= LAST_CT else "mr"
