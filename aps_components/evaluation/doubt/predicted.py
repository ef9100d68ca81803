"""The Dice that an answer will turn out to have, and how far off that may be.

A line from soft Dice to Dice, fitted to scans that the model did not learn from, and around it the jackknife+ interval
of Barber et al. 2021 (arXiv:1905.02928): every held-out scan is predicted without itself, so few scans serve both the
line and the interval. Misses are measured in units of ``1 - Dice``: a poor answer can be missed by more than a good
one. Intervals of a Dice by conformal prediction: Wundram et al. 2024 (arXiv:2407.13307).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.9  # of an interval
FEWEST = 3  # held-out answers of a class, from which on its Dice is predicted
SLOPE_SD = 1.0  # how far from 1 a slope may be expected: if probabilities are right, soft Dice is the Dice to expect
NOISE_SD = 0.02  # of a Dice around its line, until the line is fitted
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

    Raises:
        ValueError: not as many of both, fewer than :data:`FEWEST`, or values outside [0, 1].
    """

    def __init__(self, soft_dice: Sequence[float], dice: Sequence[float]) -> None:
        self.soft_dice, self.dice = np.asarray(soft_dice, dtype=float), np.asarray(dice, dtype=float)
        if self.soft_dice.shape != self.dice.shape or self.dice.ndim != 1 or len(self.dice) < FEWEST:
            raise ValueError(
                f"{self.soft_dice.shape} soft Dice and {self.dice.shape} Dice: give {FEWEST} pairs or more"
            )
        both = np.concatenate([self.soft_dice, self.dice])
        if not ((both >= 0) & (both <= 1)).all():  # NaN neither
            raise ValueError("soft Dice and Dice must lie in [0, 1]")
        self._lines = np.array([self._line(leave_out=index) for index in range(len(self.dice))])
        left_out = _at(self._lines, self.soft_dice)
        self._misses = np.abs(self.dice - left_out) / _unit(left_out)

    def _line(self, leave_out: int | None = None) -> tuple[float, float]:
        """Intercept and slope; the slope is drawn towards 1, as far as the held-out scans do not say otherwise."""
        kept = np.arange(len(self.dice)) != (-1 if leave_out is None else leave_out)
        x, y = self.soft_dice[kept], self.dice[kept]
        prior = (NOISE_SD / SLOPE_SD) ** 2
        away = x - x.mean()
        slope = max(0.0, (float(away @ (y - y.mean())) + prior) / (float(away @ away) + prior))
        return float(y.mean() - slope * x.mean()), slope

    def __call__(self, soft_dice: float) -> Estimate:
        """What a new answer's Dice will be."""
        value = float(np.clip(_at(np.array(self._line()), np.array(soft_dice)), 0, 1))
        around = _at(self._lines, np.full(len(self.dice), soft_dice))
        rank = math.ceil(LEVEL * (len(self.dice) + 1))
        if rank > len(self.dice):  # too few: as if misses were normal
            reach = _normal_reach(self._misses) * float(_unit(np.array(value)))
            low, high = value - reach, value + reach
        else:
            off = self._misses * _unit(around)
            low, high = np.sort(around - off)[len(off) - rank], np.sort(around + off)[rank - 1]
        return Estimate(value, float(np.clip(min(low, value), 0, 1)), float(np.clip(max(high, value), 0, 1)))


def _at(lines: Values, soft_dice: Values) -> Values:
    """What lines [..., 2] say."""
    return lines[..., 0] + lines[..., 1] * soft_dice


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
    def of(cls, soft_dice: Sequence[float], dice: Sequence[float]) -> CrossFitted | None:
        """None of too few scans."""
        if len(dice) <= FEWEST:
            return None
        soft, true = np.asarray(soft_dice, dtype=float), np.asarray(dice, dtype=float)
        others = [np.arange(len(true)) != index for index in range(len(true))]
        found = [DicePredictor(soft[rest], true[rest])(value) for rest, value in zip(others, soft, strict=True)]
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
    """Of each class from what is stored of it: ``soft_dice`` and ``dice``; None where that is too little."""
    return [
        DicePredictor(of_class["soft_dice"], of_class["dice"]) if len(of_class["dice"]) >= FEWEST else None
        for of_class in points
    ]
