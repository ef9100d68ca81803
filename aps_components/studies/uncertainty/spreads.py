"""From the figures of each scan to those of a model: mean and spread over the scans."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from aps_components.evaluation.listening import ALTERATIONS
from aps_components.evaluation.predictors import PREDICTORS
from aps_components.evaluation.reliability import BINS
from aps_components.studies.uncertainty.scan import AREAS
from aps_components.uncertainty import DEFINITIONS

Spread = dict[str, float]  # mean, std (of the sample), n
Entry = dict[str, Any]


def spread(values: Iterable[float]) -> Spread:
    """Mean and sample standard deviation of what is defined; NaN where there is too little."""
    known = [value for value in values if not math.isnan(value)]
    return {
        "mean": float(np.mean(known)) if known else math.nan,
        "std": float(np.std(known, ddof=1)) if len(known) > 1 else math.nan,
        "n": len(known),
    }


def summarise(model: Mapping[str, Any]) -> Entry:
    """One model.

    Args:
        model: with ``scans``, as :func:`measure_scan` gives them, ``noises`` and ``labels``.

    Returns:
        ``dice`` and ``response`` by level of noise, ``mean`` of each map, and ``detection``, ``calibration``,
        ``prompts`` and ``listening`` of the image without noise.
    """
    scans = list(model["scans"].values())
    return {
        "dice": [spread(scan["levels"][level]["dice"] for scan in scans) for level in range(len(model["noises"]))],
        "error_rate": {
            area: spread(scan["detection"]["least_confidence"][area]["error_rate"] for scan in scans) for area in AREAS
        },
        "mean": {name: spread(_means(scans, name, 0)) for name in DEFINITIONS},
        "response": {name: _response(scans, name, len(model["noises"])) for name in DEFINITIONS},
        "detection": {name: {area: _detection(scans, name, area) for area in AREAS} for name in DEFINITIONS},
        "calibration": {name: {area: _calibration(scans, name, area) for area in AREAS} for name in PREDICTORS},
        "prompts": {label: _spreads(scans, "prompts", label, ("points", "precision")) for label in model["labels"]},
        "listening": {name: _spreads(scans, "listening", name, ("dice", "changed")) for name in ALTERATIONS},
    }


def label_response(models: Sequence[Mapping[str, Any]], summaries: Sequence[Entry]) -> dict[str, list[float]]:
    """The mean of each map with each model, relative to the mean over those with the fewest labelled scans.

    Args:
        models: in the order of their labelled scans.
        summaries: of them.
    """
    fewest = [index for index, model in enumerate(models) if model["labeled_count"] == models[0]["labeled_count"]]
    relative = {}
    for name in DEFINITIONS:
        means = [summary["mean"][name]["mean"] for summary in summaries]
        relative[name] = [_ratio(mean, float(np.mean([means[index] for index in fewest]))) for mean in means]
    return relative


def _means(scans: Sequence[Mapping[str, Any]], name: str, level: int) -> list[float]:
    return [scan["levels"][level]["mean"][name] for scan in scans]


def _response(scans: Sequence[Mapping[str, Any]], name: str, levels: int) -> list[Spread]:
    """Of each level of noise, relative to the same scan without noise."""
    clean = _means(scans, name, 0)
    return [
        spread(_ratio(mean, base) for mean, base in zip(_means(scans, name, level), clean, strict=True))
        for level in range(levels)
    ]


def _ratio(value: float, base: float) -> float:
    return value / base if base else math.nan


def _detection(scans: Sequence[Mapping[str, Any]], name: str, area: str) -> Entry:
    entries = [scan["detection"][name][area] for scan in scans]
    curves = [entry["risk"] for entry in entries if entry["risk"]]
    figures: Entry = {key: spread(entry[key] for entry in entries) for key in ("auroc", "aurc", "e_aurc")}
    return figures | {"risk": np.mean(curves, axis=0).tolist() if curves else []}


def _calibration(scans: Sequence[Mapping[str, Any]], predictor: str, area: str) -> Entry:
    """The errors are means over the scans; the bins hold the voxels of all of them."""
    entries = [scan["calibration"][predictor][area] for scan in scans]
    figures: Entry = {key: spread(entry[key] for entry in entries) for key in ("ece", "overconfidence")}
    sums = {key: np.sum([entry[key] for entry in entries], axis=0) for key in ("voxels", "confidence", "correct")}
    filled = [index for index in range(BINS) if sums["voxels"][index]]
    bins = [
        {
            "share": float(sums["voxels"][index] / sums["voxels"].sum()),
            "confidence": float(sums["confidence"][index] / sums["voxels"][index]),
            "accuracy": float(sums["correct"][index] / sums["voxels"][index]),
        }
        for index in filled
    ]
    return figures | {"bins": bins}


def _spreads(scans: Sequence[Mapping[str, Any]], part: str, name: str, keys: Sequence[str]) -> Entry:
    entries = [scan[part][name] for scan in scans]
    return {key: spread(float(entry[key]) for entry in entries) for key in keys}
