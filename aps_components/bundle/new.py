"""A bundle for one's own scans, from a folder of images and a folder of fewer labels, or from a datalist."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aps_components.bundle.describe import (
    commands,
    data_license,
    describe_faults,
    describe_plan,
    describe_scans,
    readme,
)
from aps_components.bundle.metadata import DATA_LICENSE, BundleMetadata
from aps_components.bundle.plan import Plan, make_plan
from aps_components.bundle.rules import listed
from aps_components.bundle.writer import write_bundle
from aps_components.configuration import DATASET_OPTIONS
from aps_components.data.case_folder import CaseFolder, declared_labels, declared_regions, without_ignored
from aps_components.data.checks import check_cases
from aps_components.data.datalist import DATALIST, datalist_of, load_datalist
from aps_components.data.drawn import drawn
from aps_components.data.errors import DataError
from aps_components.data.fingerprint import CaseFacts, Fingerprint, take_fingerprint
from aps_components.data.partial import CLASSES, SLICES, parsed_slices
from aps_components.data.scans import Scans, find_scans
from aps_components.files import expanded, replace_text
from aps_components.options import SEED, Pieces, whole

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
VALIDATION_SHARE, VALIDATED_FROM = 0.2, 5  # of the labelled cases; fewer than 5 are all trained on


def new_bundle(
    name: str,
    *,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    labels: str | Mapping[Any, str] | None = None,
    validation: int | None = None,
    images: str | None = None,
    labels_dir: str | None = None,
    budget: str = "gpu",
    spacing: Sequence[float] | None = None,
    roi_size: Sequence[int] | None = None,
    seed: int = 0,
    labeled_slices: str | None = None,
) -> Path:
    """Make a bundle for one's own scans: look at them, propose settings, write it all, and say what to do next.

    Args:
        name: of the bundle: letters, digits, "_", "-" and ".".
        data: the folder that holds the scans: images/ and labels/, or nnU-Net's imagesTr/ and labelsTr/. A label has
            the name of its image; scans without a label are welcome. Or a datalist's file, or a folder that holds
            ``datalist.json``: then its parts are kept.
        out: folder of the new bundle, such as bundles/NAME; must not exist or be empty.
        labels: names of the values in the label files, as in "1:liver,2:tumour"; by default those of the datalist or
            of a dataset.json in the folder, or else "label 1" and so on. A value that is named "ignore" means that
            nobody labelled a voxel.
        validation: labelled cases kept for validation; by default those of the datalist, or else a fifth, none if there
            are fewer than 5.
        images: the sub-folder of the images, if it has another name.
        labels_dir: the sub-folder of the labels, if it has another name.
        budget: "gpu" or "cpu": for which voxels, patch and flips are proposed.
        spacing: voxel size in mm, instead of the proposed one.
        roi_size: patch size in voxels, instead of the proposed one.
        seed: decides which labelled cases are for validation.
        labeled_slices: "drawn" if slices that hold nothing were not labelled; see :func:`parsed_slices`.

    Returns:
        The folder of the bundle.
    """
    name, data, out = str(name), str(data), str(out)  # a command line may have made numbers of them
    _check_arguments(name, out, seed=seed, validation=validation, budget=budget, spacing=spacing, roi_size=roi_size)
    names = parse_labels(labels)
    slices = None if labeled_slices is None else parsed_slices(labeled_slices)
    scans = find_scans(data, images=images, labels_dir=labels_dir)
    own = scans.folder.root / DATALIST  # which training reads in the place of the bundle's
    validation = _asked_validation(validation, scans, own=own)
    if slices is not None and scans.listing == own:
        raise ValueError(
            f'{SLICES} {slices!r}: training reads {own}; write "{SLICES}": {json.dumps(slices)} beside each label there'
        )
    scans = scans.told(slices=slices)
    found = look_at(scans.folder, names=names or scans.names, budget=budget, spacing=spacing, roi_size=roi_size)
    check_kept_apart(scans, found)
    plan, fingerprint = found.plan, found.fingerprint
    datalist = make_datalist(name, fingerprint, plan.block.labels, validation=validation, seed=seed, scans=scans)
    training, unlabelled, kept = (len(datalist[part]) for part in ("training", "unlabeled", "validation"))
    if scans.listing == own:  # also labels by models
        read = load_datalist(scans.folder.root)
        training, unlabelled = len(read.labeled), len(read.unlabeled)
    print("\n" + found.described())
    bundle = write_new(out, name=name, found=found, datalist=datalist)
    print(
        f"\nWritten: {out}. Training has {training} labelled and {unlabelled} unlabelled cases, validation {kept}. "
        "Its docs/README.md\nrepeats all of the above; fill in docs/data_license.txt.\n"
    )
    if scans.listing == own and fingerprint.faults:
        print(f"Note: training reads {own} and refuses what was left out above; mend it, or take it out there.\n")
    if scans.labels_by_models and scans.listing != own:
        print(f"Note: {scans.labels_by_models} labels that models made are left aside; these scans are unlabelled.\n")
    if own.is_file() and scans.listing != own:
        print(f"Note: {own} takes the place of the bundle's datalist; move it away first.\n")
    if not unlabelled and not fingerprint.partly_labelled:
        print(
            "Note: every case is labelled. To see how far fewer labels get, train with --labeled_count N, without "
            "--unlabeled_batch 0.\n"
        )
    print("Next:\n")
    folder_of_data = os.path.dirname(data) or "." if Path(expanded(data)).is_file() else data
    steps = commands(plan, bundle=out, data=folder_of_data, labelled=training, unlabelled=unlabelled, validation=kept)
    print("\n\n".join(f"# {title}\n{command}" for title, command in steps.items()))
    return bundle


def _asked_validation(validation: int | None, scans: Scans, *, own: Path) -> int | None:
    """Number of validation scans to draw; none where a datalist that training reads itself names none.

    Raises:
        ValueError: the datalist names them, or training would not read of them.
    """
    if scans.listing is None or (scans.listing != own and not scans.validation):
        return validation
    if validation and not scans.validation:
        raise ValueError(
            f"validation {validation}: training reads {own}, which names no validation scans; name some there, or give "
            f"training --validation_count {validation}"
        )
    if validation is not None and validation != len(scans.validation):
        raise ValueError(
            f"validation {validation}: {scans.listing} names {len(scans.validation)} validation scans; leave it out"
        )
    return 0


@dataclass(frozen=True)
class LookedAt:
    """A dataset that was looked at: its files, what they are like, and the settings that follow."""

    folder: CaseFolder
    fingerprint: Fingerprint
    plan: Plan

    def described(self) -> str:
        """All of it for a terminal."""
        faults = describe_faults(self.folder, self.fingerprint, self.plan)
        proposed = "Proposed, by the rules of docs/explanation/planning.md:\n\n" + describe_plan(self.plan)
        return "\n\n".join(filter(None, [describe_scans(self.fingerprint, self.plan), faults, proposed]))


def look_at(
    folder: CaseFolder,
    *,
    names: Mapping[int, str] | None = None,
    budget: str = "gpu",
    spacing: Sequence[float] | None = None,
    roi_size: Sequence[int] | None = None,
    largest_component: Pieces | None = None,
) -> LookedAt:
    """Read the scans of a folder and plan the settings; arguments as of :func:`new_bundle`, labels as of
    :func:`parse_labels`, ``largest_component`` of :func:`make_plan`.

    Raises:
        DataError: no labelled case can be used.
    """
    print(f"{folder.root}: {len(folder.cases)} cases in {folder.images}/, labels in {folder.labels}/", flush=True)
    regions = {} if names else declared_regions(folder.root)
    names, ignore = without_ignored(names or declared_labels(folder.root))
    folder = folder.told(ignore=ignore)
    fingerprint = take_fingerprint(folder)
    if not fingerprint.labelled:
        faults = "\n".join(f"  {fault}" for fault in fingerprint.faults[:10])
        raise DataError(f"{folder.root}: no labelled case can be used; mend at least one of these:\n{faults}")
    plan = make_plan(
        fingerprint,
        names=names,
        regions=regions,
        ignore=folder.ignore,
        channel_tokens=folder.channel_tokens,
        budget=budget,
        spacing=spacing,
        roi_size=roi_size,
        largest_component=largest_component,
    )
    if plan.block.label_values and (said := [case.label for case in folder.cases if CLASSES in case.said]):
        raise DataError(
            f"{said[0]}: its labeled_classes are classes of the datalist, and the values {listed(plan.values)} become "
            "other ones; number the classes of the label files 1, 2, ..., and what is ignored above them"
        )
    return LookedAt(folder, fingerprint, plan)


def check_kept_apart(scans: Scans, found: LookedAt) -> None:
    """Look at a datalist's validation and test scans, which no fingerprint shows, before hours are spent.

    Raises:
        DataError: some are damaged; which.
    """
    block = found.plan.block
    told = scans.told(ignore=found.folder.ignore)
    check_cases(
        [*told.validation, *told.test],
        in_channels=block.in_channels,
        num_classes=block.num_classes,
        label_values=block.label_values,
    )


def write_new(
    out: str | os.PathLike[str], *, name: str, found: LookedAt, datalist: Mapping[str, Any], trained: str | None = None
) -> Path:
    """Write the bundle of a dataset that was looked at; errors as of :func:`write_bundle`.

    Args:
        out: its folder.
        name: of the bundle.
        found: what its settings follow from.
        datalist: becomes the bundle's.
        trained: how it is trained, a Markdown list, where that is not as the bundle's own schedule says.
    """
    counts = {"training": len(datalist["training"]), "validation": len(datalist["validation"])}
    bundle = write_bundle(
        out,
        block=found.plan.block,
        metadata=_metadata(name, found.plan),
        datalist=datalist,
        docs={
            "README.md": readme(name, found.folder, found.fingerprint, found.plan, schedule=trained, **counts),
            "data_license.txt": data_license(name),
        },
    )
    replace_text(bundle / "configs" / "fingerprint.json", _fingerprint_json(found.fingerprint))
    return bundle


def parse_labels(labels: str | Mapping[Any, str] | None) -> dict[int, str] | None:
    """Value to name, of a text such as "1:liver,2:tumour" or of a mapping."""
    if labels is None:
        return None
    mend = 'write VALUE:NAME, with commas between, such as --labels "1:liver,2:tumour"'
    if isinstance(labels, Mapping):
        pairs = [(str(value), str(text)) for value, text in labels.items()]
    elif isinstance(labels, str):
        pairs = [(value, text) for value, _, text in (entry.partition(":") for entry in labels.split(","))]
    else:
        raise ValueError(f"labels {labels!r} names no values; {mend}")
    names: dict[int, str] = {}
    for value, text in pairs:
        if not value.strip().isdecimal() or not text.strip():
            raise ValueError(f"labels has the entry {f'{value}:{text}'!r}; {mend}")
        if int(value) in names:
            raise ValueError(f"labels names the value {int(value)} twice; {mend}")
        names[int(value)] = text.strip()
    if not set(names) - {0}:
        raise ValueError(f"labels {labels!r} names no class but the background; {mend}")
    return names


def make_datalist(
    name: str,
    fingerprint: Fingerprint,
    labels: Mapping[str, str],
    *,
    scans: Scans,
    validation: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """All usable cases by part; arguments as of :func:`new_bundle`.

    Where no datalist says which scans validate, they are drawn by whole patients, by these and the seed alone: not by
    the order of files, and further cases do not reshuffle the others.

    Raises:
        ValueError: so many validation scans leave none to train on.
    """
    order = sorted(fingerprint.labelled, key=lambda facts: (drawn(_patient(facts, scans), seed=seed), facts.case.name))
    kept = [] if scans.validation else _kept_apart(order, scans, validation)
    apart = {facts.case.name for facts in kept}
    learned = [f for f in (fingerprint.labelled if scans.listing else order) if f.case.name not in apart]
    item = scans.folder.item
    return datalist_of(
        name,
        labels,
        folder=scans.folder.root,
        training=[item(facts.case) for facts in learned],
        unlabeled=[item(facts.case) for facts in fingerprint.unlabelled],
        validation=scans.validation or [item(facts.case) for facts in kept],
        test=scans.test,
    )


def _kept_apart(order: Sequence[CaseFacts], scans: Scans, validation: int | None) -> list[CaseFacts]:
    """The last patients with about so many scans, one of them at least."""
    count, asked = len(order), validation is not None
    if validation is None:
        validation = max(1, round(VALIDATION_SHARE * count)) if count >= VALIDATED_FROM else 0
    if not 0 <= validation < count:
        raise ValueError(f"validation {validation} of {count} labelled cases leaves none to train on; lower it")
    by_patient: dict[str, list[CaseFacts]] = {}
    for facts in order if validation else []:
        by_patient.setdefault(_patient(facts, scans), []).append(facts)
    if len(by_patient) == 1 and asked:
        raise ValueError(f"validation {validation}: all labelled cases are of one patient, so none can be kept apart")
    kept: list[CaseFacts] = []
    for cases in list(by_patient.values())[:0:-1]:  # the first patient is learned from
        if kept and len(kept) + len(cases) > validation:
            break
        kept = [*cases, *kept]
    return kept


def _patient(facts: CaseFacts, scans: Scans) -> str:
    return scans.patients.get(facts.case.name, facts.case.name)


def _check_arguments(
    name: str,
    out: str,
    *,
    seed: int,
    validation: int | None,
    budget: str,
    spacing: Sequence[float] | None,
    roi_size: Sequence[int] | None,
) -> None:
    """Refuse before the scans are read, which may take minutes."""
    if not NAME.fullmatch(name):
        raise ValueError(f'name {name!r} must be letters, digits, "_", "-" and ".", beginning with a letter or digit')
    place = expanded(out)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise FileExistsError(f"{out} is not an empty folder: name a new one by --out, or empty it")
    SEED("seed", seed)
    if validation is not None:
        whole(least=0)("validation", validation)
    if spacing is not None:
        DATASET_OPTIONS["spacing"]("spacing", spacing)
    if roi_size is not None:
        DATASET_OPTIONS["roi_size"]("roi_size", roi_size)
    if budget not in ("gpu", "cpu"):
        raise ValueError(f"budget {budget!r} must be gpu or cpu")


def _metadata(name: str, plan: Plan) -> BundleMetadata:
    names = list(plan.block.labels.values())[1:]
    is_ct = isinstance(plan.block.intensity, Mapping)
    return BundleMetadata(
        name=f"{name}: segmentation with AutoPromptSeg",
        task=f"Semi-supervised segmentation of {', '.join(names)}",
        modality="CT" if is_ct else "n/a",
        image_classes=f"{plan.block.in_channels} channel(s)" + (", CT in Hounsfield units" if is_ct else ""),
        data_source=f"your own scans: see {DATA_LICENSE}",
        to_fill_in=[DATA_LICENSE],
        references=["Isensee et al., nnU-Net, Nature Methods 2021 (doi:10.1038/s41592-020-01008-z): rules of planning"],
    )


def _fingerprint_json(fingerprint: Fingerprint) -> str:
    return json.dumps(fingerprint.summary(), indent=4, ensure_ascii=False) + "\n"
