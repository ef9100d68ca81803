"""The Dice that an answer will turn out to have, and how far off that may be.

A line from soft Dice, and from agreement with a second view where there is one, to Dice, fitted to scans that the
model did not learn from, and around it the jackknife+ interval of Barber et al. 2021 (arXiv:1905.02928): every held-out
scan is predicted without itself, so few scans serve both the line and the interval. Misses are measured in units of
``1 - Dice``: a poor answer can be missed by more than a good one. Intervals of a Dice by conformal prediction: Wundram
et al. 2024 (arXiv:2407.13307).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

LEVEL = 0.9  # of an interval
FEWEST = 3  # held-out answers of a class, from which on its Dice is predicted
SLOPE_SD = 1.0  # how far from 1 a slope may be expected: if probabilities are right, soft Dice is the Dice to expect
NOISE_SD = 0.02  # of a Dice around its line, where the pull of the prior is set
LEAST_UNIT = 0.02  # of a miss: near a Dice of 1, too, one is off by a little

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A Dice that is expected, in [0, 1], and the interval that holds the true one in :data:`LEVEL` of the scans."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        """As it is written into files."""
        return {key: round(float(getattr(self, key)), 4) for key in ("value", "low", "high")}


class DicePredictor:
    """Of one class.

    Args:
        soft_dice: of held-out answers, [n].
        dice: what they turned out to be, [n].
        agreement: of the answers with a second view, [n]; None without one.

    Raises:
        ValueError: not as many of each, fewer than :data:`FEWEST`, or values outside [0, 1].
    """

    def __init__(
        self, soft_dice: Sequence[float], dice: Sequence[float], agreement: Sequence[float] | None = None
    ) -> None:
        measures = [soft_dice] if agreement is None else [soft_dice, agreement]
        if len({len(each) for each in (dice, *measures)}) > 1 or len(dice) < FEWEST:
            raise ValueError(f"{len(soft_dice)} soft Dice and {len(dice)} Dice: give as many of both, {FEWEST} or more")
        self.measures = np.array(measures, dtype=float).T  # [n, 1 or 2]
        self.dice = np.asarray(dice, dtype=float)
        both = np.concatenate([self.measures.ravel(), self.dice])
        if not ((both >= 0) & (both <= 1)).all():  # NaN neither
            raise ValueError("soft Dice, Dice and agreement must lie in [0, 1]")
        self._lines = np.array([self._line(leave_out=index) for index in range(len(self.dice))])
        left_out = _at(self._lines, self.measures)
        self._misses = np.abs(self.dice - left_out) / _unit(left_out)

    def _line(self, leave_out: int | None = None) -> Values:
        """Intercept and slopes, [1 + measures], none below 0: what is surer is never worse.

        Slopes are drawn towards equal ones that sum to 1, as far as the held-out scans do not say otherwise.
        """
        kept = np.arange(len(self.dice)) != (-1 if leave_out is None else leave_out)
        x, y = self.measures[kept], self.dice[kept]
        count, weight = x.shape[1], NOISE_SD / SLOPE_SD
        rows = np.concatenate([x - x.mean(axis=0), weight * np.eye(count)])
        slopes, _ = optimize.nnls(rows, np.concatenate([y - y.mean(), np.full(count, weight / count)]))
        return np.array([y.mean() - slopes @ x.mean(axis=0), *slopes])

    def __call__(self, soft_dice: float, agreement: float | None = None) -> Estimate:
        """What a new answer's Dice will be; ``agreement`` if there was one of the held-out answers."""
        new = np.array([soft_dice] if self.measures.shape[1] == 1 else [soft_dice, agreement], dtype=float)
        value = float(np.clip(_at(self._line(), new), 0, 1))
        around = _at(self._lines, new)
        rank = math.ceil(LEVEL * (len(self.dice) + 1))
        if rank > len(self.dice):  # too few: as if misses were normal
            reach = _normal_reach(self._misses) * float(_unit(np.array(value)))
            low, high = value - reach, value + reach
        else:
            off = self._misses * _unit(around)
            low, high = np.sort(around - off)[len(off) - rank], np.sort(around + off)[rank - 1]
        return Estimate(value, float(np.clip(min(low, value), 0, 1)), float(np.clip(max(high, value), 0, 1)))


def _at(lines: Values, measures: Values) -> Values:
    """What lines [..., 1 + measures] say of [..., measures]."""
    return lines[..., 0] + (lines[..., 1:] * measures).sum(axis=-1)


def _unit(dice: Values) -> Values:
    return np.maximum(1 - dice, LEAST_UNIT)


def _normal_reach(misses: Values) -> float:
    """Half the interval of a new value around the mean of normal ones, in units of a miss."""
    count = len(misses)
    spread = math.sqrt(float(misses @ misses) / count)
    return float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * spread


@dataclass(frozen=True)
class CrossFitted:
    """How well Dice is predicted, every scan by a line that was fitted without it.

    Attributes:
        scans: that were held out.
        correlation: of predicted and true Dice, by ranks (Spearman); NaN where one of them is constant.
        coverage: share of the scans whose true Dice lies in its interval.
        width: of an interval, mean.
        error: absolute, mean.
    """

    scans: int
    correlation: float
    coverage: float
    width: float
    error: float

    @classmethod
    def of(
        cls, soft_dice: Sequence[float], dice: Sequence[float], agreement: Sequence[float] | None = None
    ) -> CrossFitted | None:
        """None of too few scans."""
        if len(dice) <= FEWEST:
            return None
        true = np.asarray(dice, dtype=float)
        measures = [
            np.asarray(each, dtype=float) for each in ([soft_dice] if agreement is None else [soft_dice, agreement])
        ]
        found = []
        for index in range(len(true)):
            rest = np.arange(len(true)) != index
            soft, *more = (each[rest] for each in measures)
            found.append(DicePredictor(soft, true[rest], *more)(*(float(each[index]) for each in measures)))
        low, value, high = (np.array([getattr(one, key) for one in found]) for key in ("low", "value", "high"))
        varied = np.ptp(value) > 0 and np.ptp(true) > 0
        return cls(
            scans=len(true),
            correlation=float(stats.spearmanr(value, true).statistic) if varied else math.nan,
            coverage=float(((low <= true) & (true <= high)).mean()),
            width=float((high - low).mean()),
            error=float(np.abs(value - true).mean()),
        )


def predictors_of(points: Sequence[dict[str, Any]]) -> list[DicePredictor | None]:
    """Of each class from what is stored of it by the arguments' names; None where that is too little."""
    return [
        DicePredictor(one["soft_dice"], one["dice"], one.get("agreement")) if len(one["dice"]) >= FEWEST else None
        for one in points
    ]
