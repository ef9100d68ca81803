"""The report of a folder of segmentations: every scan in one page, those to look at first."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aps_components.data.nifti import channels_of, read_scan
from aps_components.evaluation.preview import millilitres
from aps_components.files import real
from aps_components.report.blocks import Block, Facts, Page, Section, Table, Text
from aps_components.report.page import REPORT_FILE, photograph, write_page
from aps_components.report.reading import DASH, UNKNOWN, facts, mapping
from aps_components.segmentation.expected import UNLIKE_SAID, expected_text, is_unlike, mean_expected
from aps_components.segmentation.outputs import Outputs
from aps_components.segmentation.segment import Segmentation
from aps_components.segmentation.statistics import folder_statistics
from aps_components.uncertainty import MAP_NAMES

MOST_PICTURES, WIDTH = 60, 900  # in the page, and dots of each
FEWEST = 5  # scans, from which on a volume can be unusual
UNUSUAL = 3.5  # robust deviations (Iglewicz & Hoaglin 1993)
MAD_TO_DEVIATION = 1.4826  # of a normal distribution
Scan = Mapping[str, Any]  # what aps segment writes of one


def write_segmentation_report(result: Segmentation) -> Path:
    """Write an overview of all scans: those that failed, then the most doubtful first, with volumes and pictures.

    Args:
        result: of ``segment``; of a folder the scans of earlier calls are in it, too.

    Returns:
        ``report.html`` in the folder, or beside a single label map ``NAME_report.html``.

    Raises:
        FileExistsError: a file of that name is there, and is no report of this project.
    """
    outputs = result.outputs
    scans = folder_statistics(outputs, result.statistics)
    doubts = {scan["scan"]: mean_doubt(outputs, scan) for scan in scans}
    remarks = unusual(scans)
    ordered = sorted(scans, key=lambda scan: _rank(scan, doubts[scan["scan"]], remarks[scan["scan"]][0]))
    sections = [
        Section("Not segmented", _failures(result.failed)),
        Section("Volumes", _volumes(ordered, doubts, remarks) if scans else []),
        Section("Pictures", _pictures(outputs, ordered)),
        Section("Made by", _maker(scans)),
    ]
    page = Page(
        title=f"Segmentations: {real(outputs.folder).name}",
        about=f"{len(scans)} scan(s) segmented, {len(result.failed)} not. {_order(scans, doubts)}",
        sections=[section for section in sections if section.blocks],
    )
    name = REPORT_FILE if outputs.stem is None else f"{outputs.stem}_{REPORT_FILE}"
    return write_page(outputs.folder / name, page)


def mean_doubt(outputs: Outputs, scan: Scan) -> float | None:
    """The mean of the model's uncertainty over what is segmented; None without a map, or where nothing is."""
    stem = outputs.stem or scan["scan"]
    label_map = outputs.folder / (f"{stem}_seg.nii.gz" if outputs.stem is None else f"{stem}.nii.gz")
    maps = [outputs.folder / f"{stem}_{names[0].file}.nii.gz" for names in MAP_NAMES.values()]
    epistemic = next((file for file in maps if file.is_file()), None)
    if epistemic is None or not label_map.is_file():
        return None
    try:
        inside = channels_of(read_scan(label_map))[0] > 0
        values = channels_of(read_scan(epistemic))[0][inside]
    except (OSError, ValueError, IndexError):
        return None
    doubt = float(values.mean(dtype=np.float64)) if values.size else math.nan
    return doubt if math.isfinite(doubt) else None


def unusual(scans: Sequence[Scan]) -> dict[str, tuple[float, str]]:
    """How far the volumes of each scan are from those of the others, and of which class that is said, in words.

    Robust deviations of the logarithm from its median; a class that is missing where most scans have it is farthest.
    """
    names = {entry["name"] for scan in scans for entry in scan["classes"]}
    found = {scan["scan"]: (0.0, "") for scan in scans}
    for name in sorted(names):
        volumes = {
            scan["scan"]: entry["volume_ml"] for scan in scans for entry in scan["classes"] if entry["name"] == name
        }
        for case, away in _deviations(volumes).items():
            if away >= UNUSUAL and away > found[case][0]:
                said = f"{name}: none" if math.isinf(away) else f"{name}: unusual volume"
                found[case] = (away, said)
    return found


def _deviations(volumes: Mapping[str, float]) -> dict[str, float]:
    there = {case: math.log(volume) for case, volume in volumes.items() if volume > 0}
    if len(volumes) < FEWEST or 2 * len(there) <= len(volumes):
        return {}
    middle = float(np.median(list(there.values())))
    scale = MAD_TO_DEVIATION * float(np.median([abs(value - middle) for value in there.values()]))
    away = {case: abs(value - middle) / scale for case, value in there.items()} if scale > 0 else {}
    return away | {case: math.inf for case in volumes if case not in there}


def _rank(scan: Scan, doubt: float | None, away: float) -> tuple[bool, float, float, float, str]:
    """Where the model says how good its answers are, by that."""
    expected = mean_expected(scan)
    worth = math.inf if expected is None else expected
    return not is_unlike(scan), worth, (0.0 if doubt is None else -doubt), -away, str(scan["scan"])


def _order(scans: Sequence[Scan], doubts: Mapping[str, float | None]) -> str:
    if any(mean_expected(scan) is not None for scan in scans):
        return (
            "First the scans that are unlike those of the training, then those with the lowest predicted Dice. In "
            "brackets: the interval that holds the true one in 9 of 10 scans like those that it was calibrated on."
        )
    if any(value is not None for value in doubts.values()):
        return "The most uncertain scans first, by the mean of the model's uncertainty map over what is segmented."
    return (
        "Scans whose volumes are unlike the others' first, then by name. How uncertain the model was is unknown: "
        "segment with --maps, or have it predict its Dice (aps calibrate)."
    )


def _failures(failed: Mapping[str, str]) -> list[Block]:
    rows = [[name, _without_path(why)] for name, why in failed.items()]
    return [Table(["scan", "why"], rows, names=2)] if rows else []


def _without_path(why: str) -> str:
    """A page is handed on, and a folder's name may be a patient's: what stands before a file's name goes."""
    said = re.split(r"[/\\]", why)[-1]
    return said.partition(": ")[2] or said


def _volumes(
    scans: Sequence[Scan], doubts: Mapping[str, float | None], remarks: Mapping[str, tuple[float, str]]
) -> list[Block]:
    names = list(dict.fromkeys(entry["name"] for scan in scans for entry in scan["classes"]))
    with_doubt = any(value is not None for value in doubts.values())
    foretold = [name for name in names if any(_foretold(scan, name) for scan in scans)]
    rows = []
    for scan in scans:
        volumes = {entry["name"]: millilitres(entry["volume_ml"]) for entry in scan["classes"]}
        doubt = doubts[scan["scan"]]
        shown = [_foretold(scan, name) or DASH for name in foretold]
        shown += [DASH if doubt is None else f"{doubt:.3g}"] if with_doubt else []
        shown += ["; ".join(filter(None, [UNLIKE_SAID if is_unlike(scan) else "", remarks[scan["scan"]][1]]))]
        rows.append([scan["scan"], *(volumes.get(name, DASH) for name in names), *shown])
    head = ["scan", *(f"{name}, ml" for name in names), *(f"{name}, predicted Dice" for name in foretold)]
    head += [*(["uncertainty"] if with_doubt else []), "look at"]
    note = (
        f"Unusual: {UNUSUAL:g} robust deviations or more from the others' median; with fewer than {FEWEST} scans "
        "nothing is said."
    )
    return [Table(head, rows, note=note)]


def _foretold(scan: Scan, name: str) -> str:
    return next((expected_text(entry) for entry in scan["classes"] if entry["name"] == name), "")


def _pictures(outputs: Outputs, scans: Sequence[Scan]) -> list[Block]:
    blocks: list[Block] = []
    for scan in scans[:MOST_PICTURES]:
        file = outputs.folder / f"{outputs.stem or scan['scan']}_preview.png"
        caption = str(scan["scan"])
        if picture := photograph(file, f"{caption} in three planes, with its classes", caption=caption, width=WIDTH):
            blocks.append(picture)
    if len(scans) > MOST_PICTURES:
        blocks.append(
            Text(f"The first {MOST_PICTURES} are shown; those of the others lie in the folder as NAME_preview.png.")
        )
    return blocks


def _maker(scans: Sequence[Scan]) -> list[Block]:
    """Each model and settings of which there are results."""
    makers: dict[str, list[tuple[str, str]]] = {}
    for scan in scans:
        said = facts(mapping(scan.get("made_by"))) or [("bundle", UNKNOWN)]
        makers.setdefault(repr(said), said)
    return [Facts(said) for said in makers.values()]
