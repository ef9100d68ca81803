"""From an official download to a dataset folder with a datalist."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aps_components.data.datalist import DATALIST
from aps_components.data.errors import DataError
from aps_components.data.preparation.amos import Amos
from aps_components.data.preparation.brats import Brats
from aps_components.data.preparation.cases import Findings, Layout, Outcome, RawCase, Split
from aps_components.data.preparation.journal import Journal
from aps_components.data.preparation.la import LeftAtrium
from aps_components.data.preparation.split import digest, hide_labels
from aps_components.data.preparation.summary import PARTS, Summary, output_folder, write_json
from aps_components.data.preparation.workers import process_cases
from aps_components.files import expanded
from aps_components.options import SEED
from aps_components.ownership import alone_in

LAYOUTS: dict[str, Any] = {"la": LeftAtrium, "amos": Amos, "brats": Brats}
OPTIONS = {"la": ("crop", "order", "label_grid"), "amos": ("modality", "protocol"), "brats": ()}


def prepare(
    dataset: str,
    *,
    raw: str | os.PathLike[str],
    out: str | os.PathLike[str],
    labeled: int | None = None,
    validation: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    crop: str | None = None,
    order: str | None = None,
    label_grid: str | None = None,
    modality: str | None = None,
    protocol: str | int | None = None,
    progress: bool = True,
) -> Path:
    """Turn an official download into a dataset folder; run it again to go on after an interruption.

    Every case is read in full and checked. A broken one is named and left out, and the rest goes on. Where nothing has
    to be converted (amos, brats) the datalist points at the download, which must stay where it is.

    Args:
        dataset: "la", "amos" or "brats".
        raw: the unpacked download; nothing in it is changed.
        out: receives datalist.json, preparation.json and, for la, images/ and labels/.
        labeled: training cases that keep their label, the first in the split's order; no other training label is
            opened. None keeps all, and training's labeled_count chooses.
        validation: number of validation cases, from the end of the training cases; None takes the dataset's own.
        seed: of the split's order; the published order of la does not depend on it.
        workers: processes; None takes one per core, four at most.
        crop: of la: image (default: the air around the body, found without labels), true_mask (around the true mask,
            as the published scans are: needs every label, the test's included) or none.
        order: of la: published, hash, or auto (default: published if all 80 names are there).
        label_grid: of la: own (default) compares the geometry of label and image, image takes the image's.
        modality: of amos: ct (default), mr or all.
        protocol: of amos: 180 (CT) or 216 (CT and MR), the published splits by their training scans.
        progress: show a bar and print the summary.

    Returns:
        The datalist, which is written last: while it is there, the folder is complete.
    """
    given = {"crop": crop, "order": order, "label_grid": label_grid, "modality": modality, "protocol": protocol}
    layout = _layout(dataset, {name: value for name, value in given.items() if value is not None})
    seed = SEED("seed", seed)
    _check_counts(labeled=labeled, validation=validation, workers=workers)
    source = Path(os.path.abspath(expanded(raw)))
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; give the unpacked download with --raw")
    folder = output_folder(out)
    with alone_in(folder):
        findings = layout.find(source, skip=folder)
        split = layout.split(findings.cases, seed=seed, validation=validation, labeled=labeled)
        split = hide_labels(split, labeled)
        if not split.parts["training"]:
            raise DataError(
                f"{source}: {len(findings.cases)} case(s), but no training case with a label; add the labels"
            )
        journal = Journal(folder, raw=source, layout=layout)
        cases = [case for part in PARTS for case in split.parts.get(part, [])]
        if any(journal.find(case) is None for case in cases):
            (folder / DATALIST).unlink(missing_ok=True)
        outcomes = process_cases(cases, layout=layout, out=folder, journal=journal, workers=workers, progress=progress)

        sound = _sound(split, outcomes)
        options = {
            "raw": Path(os.path.relpath(source, folder)).as_posix(),
            "seed": seed,
            "labeled": labeled,
            "validation": validation,
            **given,
        }
        summary = _summary(layout, folder, options, findings, split, sound, outcomes)
        summary.write()
        if progress:
            print(summary.text())
        if not sound["training"]:
            reasons = "; ".join(list(summary.left_out.values())[:3]) or "none has a label"
            raise DataError(f"{source}: no training case with a label is left: {reasons}")
        items = {part: [outcomes[case.name].item for case in kept] for part, kept in sound.items()}
        labels = {str(value): name for value, name in layout.labels.items()}
        write_json(folder / DATALIST, {"name": layout.name, "labels": labels, **items})
        return folder / DATALIST


def _layout(dataset: str, given: Mapping[str, Any]) -> Layout:
    if dataset not in LAYOUTS:
        raise DataError(f"no dataset {dataset!r}: choose one of {', '.join(LAYOUTS)}")
    if foreign := [name for name in given if name not in OPTIONS[dataset]]:
        own = ", ".join(OPTIONS[dataset]) or "none"
        raise DataError(f"{dataset} has no option {', '.join(foreign)}; its own options: {own}")
    layout: Layout = LAYOUTS[dataset](**given)
    return layout


def _check_counts(*, labeled: int | None, validation: int | None, workers: int | None) -> None:
    for name, value, least in (("labeled", labeled, 1), ("validation", validation, 0), ("workers", workers, 1)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and (not whole or value < least):
            raise DataError(f"{name} {value!r} must be a whole number of at least {least}")


def _sound(split: Split, outcomes: Mapping[str, Outcome]) -> dict[str, list[RawCase]]:
    """The split without the broken cases; the others stay where they are."""
    return {part: [case for case in split.parts.get(part, []) if not outcomes[case.name].fault] for part in PARTS}


def _summary(
    layout: Layout,
    out: Path,
    options: Mapping[str, Any],
    findings: Findings,
    split: Split,
    sound: Mapping[str, list[RawCase]],
    outcomes: Mapping[str, Outcome],
) -> Summary:
    left_out = findings.left_out | split.left_out
    for part in PARTS:
        for case in split.parts.get(part, []):
            if fault := outcomes[case.name].fault:
                left_out[f"{case.name} ({part})"] = fault
    kept = [outcomes[case.name] for cases in sound.values() for case in cases]
    notes = [*findings.notes, *split.notes, *layout.remarks(kept)]
    notes += [note for outcome in kept for note in outcome.notes]
    if options["labeled"] is not None:
        advice = "" if sound["validation"] else " --validation_count 0"
        notes.append(f"train with --labeled_count {len(sound['training'])}{advice}")
    return Summary(
        dataset=layout.name,
        out=out,
        options=options,
        counts={part: len(cases) for part, cases in sound.items()},
        rule=split.rule,
        digest=digest({part: [case.name for case in cases] for part, cases in sound.items()}),
        left_out=left_out,
        notes=notes,
        cases={case.name: {"part": part, **outcomes[case.name].facts} for part in PARTS for case in sound[part]},
    )
