"""2018 Left Atrium Segmentation Challenge: the official NRRD scans, or UA-MT's preprocessed HDF5 files.

Xiong et al., Medical Image Analysis 2020; Yu et al., MICCAI 2019. The challenge has 100 training and 54 test scans; the
published tables divide the 100 training scans into 80 and 20, the 80 in the order of la_train.txt.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from aps_components.data.errors import DataError
from aps_components.data.preparation.cases import Findings, Outcome, RawCase, Split, nothing_found, walk
from aps_components.data.preparation.crop import Box, body_box, cropped_affine, published_box
from aps_components.data.preparation.split import divide, rule_of, shares, shuffled, take_validation
from aps_components.data.preparation.volumes import (
    Volume,
    h5_has,
    image_fault,
    read_h5,
    read_nrrd,
    require,
    same_grid_fault,
    storable,
    write_nifti,
)

IMAGE, LABEL, PREPROCESSED = "lgemri.nrrd", "laendo.nrrd", "mri_norm2.h5"
SPACING = 0.625  # mm
CHOICES = {
    "crop": ("image", "true_mask", "none"),
    "order": ("auto", "published", "hash"),
    "label_grid": ("own", "image"),
}
CROP_NOTES = {
    "none": "not cropped",
    "image": "cropped by the image alone, no label needed: {kept}",
    "true_mask": "cropped around the true mask, test scans too: {kept}; figures on these scans are comparable with the "
    "published tables, and with nothing else",
}
PUBLISHED = {"training": 80, "test": 20}
WITH_VALIDATION = (70, 10)  # of the 80, as the bundle cuts them


def published_names() -> list[str]:
    """The 80 training scans in the order of the published tables."""
    return resources.files(__package__).joinpath("la_train.txt").read_text(encoding="utf-8").split()


@dataclass(frozen=True)
class LeftAtrium:
    """The layout, and how its scans are cropped and divided.

    Args:
        crop: "image" leaves out the air around the body, found without any label; "true_mask" crops around the true
            mask as the published scans are, which needs every label, the test's included; "none". Preprocessed files
            are cropped already and stay as they are.
        order: "published" is that of the published tables, "hash" that of the names' hashes, "auto" the first if all
            80 names are there.
        label_grid: "own" compares the label's geometry with the image's; "image" takes the image's for granted.
    """

    crop: str = "image"
    order: str = "auto"
    label_grid: str = "own"

    name: ClassVar[str] = "la"
    labels: ClassVar[Mapping[int, str]] = {0: "background", 1: "left atrium"}

    def __post_init__(self) -> None:
        for option, choices in CHOICES.items():
            if getattr(self, option) not in choices:
                raise DataError(f"{option} {getattr(self, option)!r} is none of {', '.join(choices)}")

    def find(self, raw: Path, *, skip: Path) -> Findings:
        """Every folder with lgemri.nrrd or mri_norm2.h5 is a case, named after the folder."""
        findings, both = Findings(), 0
        for folder, _, files in walk(raw, skip=skip):
            if IMAGE not in files and PREPROCESSED not in files:
                continue
            both += IMAGE in files and PREPROCESSED in files
            case = _case(folder, files, raw)
            if fault := _name_fault(case.name):
                findings.left_out[f"{folder}"] = fault
            else:
                findings.add(case)
        if not findings.cases:
            raise nothing_found(raw, f"folders ID/{IMAGE} (with ID/{LABEL}) or ID/{PREPROCESSED}")
        if both:
            findings.notes.append(f"{both} folders have {IMAGE} and {PREPROCESSED}: the first is used")
        return findings

    def split(self, cases: list[RawCase], *, seed: int, validation: int | None, labeled: int | None) -> Split:
        """80 and 20 of the training scans; validation cases are cut by the bundle unless their labels would be lost."""
        if labeled is not None and self.crop == "true_mask":
            raise DataError(
                "crop true_mask reads every label, and labeled says that most must not be read; leave --labeled out: "
                "training keeps as many labels as its labeled_count says"
            )
        names = published_names()
        missing = len(set(names) - {case.name for case in cases})
        if self.order == "published" and missing:
            raise DataError(
                f"order published: {missing} of the 80 published training scans are missing; use --order hash"
            )
        split = _by_hash(cases, seed) if missing or self.order == "hash" else _as_published(cases, names)
        if missing < len(names) and missing and self.order == "auto":
            split.notes.append(
                f"{missing} of the 80 published training scans are missing: the published split is not used"
            )
        if validation is None and labeled is not None:
            validation = shares(len(split.parts["training"]), WITH_VALIDATION)[1]
        return take_validation(split, validation or 0)

    def processing(self) -> dict[str, Any]:
        """All but the order changes the files."""
        return {"crop": self.crop, "label_grid": self.label_grid}

    def process(self, case: RawCase, out: Path) -> Outcome:
        """Convert to OUT/images and, if the label may be read, OUT/labels."""
        preprocessed = case.images[0].endswith(".h5")
        image = self._read_image(case, preprocessed)
        mask = self._read_mask(case, preprocessed, image) if case.label else None
        spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
        box = tuple(slice(0, size) for size in image.voxels.shape)
        if not preprocessed:
            box = self._box(case, image, mask, spacing)
        affine = cropped_affine(image.affine, box)
        name = f"{case.name}.nii.gz"
        volumes = {"image": (f"images/{name}", storable(image.voxels[box]))}
        if mask is not None:
            volumes["label"] = (f"labels/{name}", mask[box])
        written = {file: write_nifti(out / file, voxels, affine) for file, voxels in volumes.values()}
        facts = {
            "shape": list(volumes["image"][1].shape),
            "spacing": [round(float(size), 4) for size in spacing],
            "assumed": image.assumed,
            "preprocessed": preprocessed,
            "share_kept": round(volumes["image"][1].size / image.voxels.size, 4),
        }
        return Outcome({key: file for key, (file, _) in volumes.items()}, facts=facts, written=written)

    def remarks(self, outcomes: Collection[Outcome]) -> list[str]:
        """What was assumed and how the scans are cropped."""
        facts = [outcome.facts for outcome in outcomes]
        notes = []
        for assumed in sorted({fact["assumed"] for fact in facts if fact["assumed"]}):
            count = sum(fact["assumed"] == assumed for fact in facts)
            notes.append(f"{count} scans do not state their whole geometry: {assumed} assumed")
        if count := sum(fact["preprocessed"] for fact in facts):
            notes.append(f"{count} preprocessed scans are cropped around the true mask already and stay as they are")
        shares_kept = [fact["share_kept"] for fact in facts if not fact["preprocessed"]]
        if shares_kept and len(shares_kept) < len(facts):
            notes.append("scans from NRRD and preprocessed ones are mixed: their fields of view and intensities differ")
        if shares_kept:
            kept = f"{100 * np.median(shares_kept):.0f} % of the voxels are left (median)"
            notes.append(CROP_NOTES[self.crop].format(kept=kept))
        return notes

    def _read_image(self, case: RawCase, preprocessed: bool) -> Volume:
        file = case.images[0]
        image = read_h5(file, "image", spacing=SPACING) if preprocessed else read_nrrd(file, default_spacing=SPACING)
        if fault := image_fault(file, image.voxels):
            raise DataError(fault)
        return image

    def _read_mask(self, case: RawCase, preprocessed: bool, image: Volume) -> NDArray[np.uint8]:
        file = case.label or ""
        label = read_h5(file, "label", spacing=SPACING) if preprocessed else read_nrrd(file, default_spacing=SPACING)
        directions = self.label_grid == "own"
        if fault := same_grid_fault(file, label, case.images[0], image, directions=directions):
            raise DataError(fault)
        values = np.unique(label.voxels)
        # 255 is the official files' atrium, 1 that of the preprocessed ones.
        if set(values.tolist()) not in ({0, 1}, {0, 255}):
            shown = ", ".join(f"{value:g}" for value in values[:5])
            raise DataError(f"{file}: label values {shown}, wanted 0 and 255, or 0 and 1; download it again")
        return (label.voxels > 0).astype(np.uint8)

    def _box(self, case: RawCase, image: Volume, mask: NDArray[np.uint8] | None, spacing: NDArray[np.float64]) -> Box:
        if self.crop == "none":
            return tuple(slice(0, size) for size in image.voxels.shape)
        if self.crop == "true_mask":
            if mask is None:
                raise DataError(f"{case.images[0]}: crop true_mask needs its label {LABEL}; add it or use --crop image")
            return published_box(mask, case.name)
        box = body_box(image.voxels, spacing.tolist())
        lost = 0 if mask is None else int(mask.sum() - mask[box].sum())
        if lost:
            raise DataError(f"{case.images[0]}: crop image cuts {lost} labelled voxels off; use --crop none")
        return box


def _case(folder: Path, files: Collection[str], raw: Path) -> RawCase:
    above = [] if folder == raw else folder.relative_to(raw).parts[:-1]
    held_back = any("test" in name.lower() for name in above)
    if IMAGE in files:
        require("nrrd")
        label = str(folder / LABEL) if LABEL in files else None
        return RawCase(folder.name, (str(folder / IMAGE),), label, held_back)
    file = str(folder / PREPROCESSED)
    return RawCase(folder.name, (file,), file if h5_has(file, "label") else None, held_back)


def _name_fault(name: str) -> str:
    """Why a folder's name cannot become a file's."""
    if not name or any(letter in '/\\:*?"<>|' or ord(letter) < 32 for letter in name):
        return f"its name {name!r} cannot be that of a file; rename the folder"
    return ""


def _as_published(cases: list[RawCase], names: list[str]) -> Split:
    by_name = {case.name: case for case in cases}
    training = [by_name[name] for name in names]
    others = sorted((case for case in cases if case.name not in set(names)), key=lambda case: case.name)
    apart = "one of the challenge's own test scans, which the published split does not use; --order hash does"
    parts = {
        "training": [case for case in training if case.label],
        "unlabeled": [case for case in training if not case.label],
        "test": [case for case in others if not case.held_back],
    }
    left_out = {case.name: apart for case in others if case.held_back}
    return _test_with_labels(Split(parts, "the order of the published tables (la_train.txt)", left_out))


def _by_hash(cases: list[RawCase], seed: int) -> Split:
    held_back = [case for case in shuffled(cases, seed=seed) if case.held_back]
    if not held_back:
        return divide(cases, published=PUBLISHED, seed=seed, validation=0, name="of the published tables")
    ordered = [case for case in shuffled(cases, seed=seed) if not case.held_back]
    parts = {
        "training": [case for case in ordered if case.label],
        "unlabeled": [case for case in ordered if not case.label],
        "test": held_back,
    }
    return _test_with_labels(Split(parts, f"{rule_of(seed)}; the test scans are the challenge's own"))


def _test_with_labels(split: Split) -> Split:
    """Leave test cases without a label out."""
    test = split.parts["test"]
    bare = {case.name: "a test case without a label cannot be measured" for case in test if not case.label}
    parts = split.parts | {"test": [case for case in test if case.label]}
    return replace(split, parts=parts, left_out=split.left_out | bare)
