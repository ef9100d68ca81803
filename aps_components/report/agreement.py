"""How an answer's volumes and probabilities agree with the truth, as texts and bins to draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np

from aps_components.report.plots import LIMITS, Bin
from aps_components.report.reading import DASH


def pooled(calibrations: Sequence[Mapping[str, Any]]) -> list[Bin]:
    """The bins of all cases together; none where the cases do not have the same."""
    keys = ("voxels", "confidence", "correct")
    columns = [[entry.get(key) for key in keys] for entry in calibrations if entry]
    try:
        sums = np.array(columns, dtype=float).sum(axis=0)
    except (TypeError, ValueError):
        return []
    if not columns or sums.ndim != 2 or not np.isfinite(sums).all():
        return []
    voxels, confidence, correct = sums[:, sums[0] > 0]
    return [
        Bin(share=count / voxels.sum(), confidence=sure / count, accuracy=right / count)
        for count, sure, right in zip(voxels, confidence, correct, strict=True)
    ]


def agreement(pairs: Sequence[tuple[float, float]]) -> list[str]:
    """Of true volumes and the answer's, ml: both means, the mean difference and the limits of agreement."""
    true, said = fmean(pair[0] for pair in pairs), fmean(pair[1] for pair in pairs)
    apart = [pair[1] - pair[0] for pair in pairs]
    limits = DASH
    if len(apart) > 1:
        half = LIMITS * stdev(apart)
        limits = f"{fmean(apart) - half:+.3g} to {fmean(apart) + half:+.3g}"
    return [f"{true:.4g}", f"{said:.4g}", f"{fmean(apart):+.3g}", limits]


def relative(pair: tuple[float, float]) -> float:
    """The difference as a share of the truth; infinite where there is nothing to find."""
    true, said = pair
    if true:
        return (said - true) / true
    return math.inf if said else 0.0


def signed_percent(share: float) -> str:
    """Of a share; a dash where it is infinite."""
    return f"{100 * share:+.1f}" if math.isfinite(share) else DASH
