"""What an evaluation says of a model's answers, for the benchmarks that make several."""

from __future__ import annotations

from pathlib import Path

from aps_components.plain_json import read_object

METRICS = "metrics.json"


def dice_by_class(evaluation: Path) -> dict[str, list[float]]:
    """Dice in percent of every scan that has one, by class, of the answer that inference gives.

    Args:
        evaluation: the folder of ``run evaluating``, of one predictor.
    """
    content = read_object(evaluation / METRICS, keys=("context", "cases"))
    found: dict[str, list[float]] = {}
    for row in content["cases"]:
        if row["variant"] == content["context"]["inference_variant"] and row["dice"] is not None:
            found.setdefault(row["class"], []).append(100 * row["dice"])
    return found
