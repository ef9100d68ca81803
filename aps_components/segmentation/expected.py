"""How good each answer is expected to be, in a scan's statistics and out of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aps_components.evaluation.doubt.expected import Expectation, of_silence

DICE, UNLIKE = "predicted_dice", "unlike_training"
BOUNDS = ("value", "low", "high")
UNLIKE_SAID = "unlike the scans of the training"
Scan = Mapping[str, Any]  # a scan's statistics


def with_expectation(statistics: dict[str, Any], expectation: Expectation | None) -> dict[str, Any]:
    """A scan's statistics with ``predicted_dice`` of each class and ``unlike_training``; as they are without one."""
    if expectation is None:
        return statistics
    classes = []
    for entry in statistics["classes"]:
        estimate = expectation.dice.get(entry["name"])
        classes.append({**entry, DICE: None if estimate is None else estimate.as_json()})
    return {**statistics, "classes": classes, UNLIKE: expectation.unlike_training}


def expected_of(entry: Scan) -> dict[str, float] | None:
    """``value``, ``low`` and ``high`` of a class's statistics; None where nothing is said, or nothing that counts."""
    found = entry.get(DICE)
    if not isinstance(found, Mapping) or not all(type(found.get(key)) in (int, float) for key in BOUNDS):
        return None
    values = {key: float(found[key]) for key in BOUNDS}
    return values if all(map(math.isfinite, values.values())) else None


def is_unlike(scan: Scan) -> bool:
    """Whether the model said that the scan is unlike those of its training."""
    return scan.get(UNLIKE) is True


def mean_expected(scan: Scan) -> float | None:
    """Over the classes; None where nothing is said."""
    values = [found["value"] for entry in scan["classes"] if (found := expected_of(entry))]
    return math.fsum(values) / len(values) if values else None


def expected_text(entry: Scan) -> str:
    """Such as ``0.91 (0.86-0.94)``; empty where nothing is said."""
    found = expected_of(entry)
    return "" if found is None else f"{found['value']:.2f} ({found['low']:.2f}-{found['high']:.2f})"


def expected_by_label(scan: Scan) -> dict[int, str]:
    """Of a picture's legend: each class's predicted Dice."""
    return {entry["label"]: f"{found['value']:.2f}" for entry in scan["classes"] if (found := expected_of(entry))}


def expected_in_words(scan: Scan) -> list[str]:
    """Of a picture's title."""
    mean = mean_expected(scan)
    said = [] if mean is None else [f"predicted Dice {mean:.2f}"]
    return said + ([UNLIKE_SAID] if is_unlike(scan) else [])


def worst_first(scans: Sequence[Scan]) -> list[Scan]:
    """Those unlike the training's first, then by predicted Dice, see :func:`of_silence`; as they were without any."""
    asked = [scan for scan in scans if any(DICE in entry for entry in scan["classes"])]
    means = {id(scan): mean_expected(scan) for scan in asked}
    silent = of_silence(list(means.values()))

    def rank(scan: Scan) -> tuple[bool, float]:
        mean = means.get(id(scan), math.inf)  # of a model that predicts nothing, last
        return not is_unlike(scan), silent if mean is None else mean

    return sorted(scans, key=rank)
