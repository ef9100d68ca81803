"""Whether a scan is unlike those that a model knows, by what its normalised image looks like.

A network answers anything, and its own confidence is the less to be trusted the farther a scan is from those that it
learned from; an image that looks different is known without asking it. The Mahalanobis distance would want more scans
than there often are, so every measure of ``measures.LOOK`` stands for itself: a scan is unlike the others where one of
them lies outside the prediction interval of a next scan (Student's t, which is wide for few scans), shared out over
all measures. A scan of the same kind is then called unlike in 1 of 100 scans, if measures are normal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FALSE_ALARMS = 0.01
FEWEST = 4  # scans that something is to be unlike of
LEAST_SPREAD = 1e-3  # in the unit of the normalised image

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class KnownLooks:
    """Mean and spread of each measure over the scans that are known.

    Args:
        mean: [K].
        std: of the sample, [K].
        scans: that there were.
    """

    mean: Values
    std: Values
    scans: int

    @classmethod
    def of(cls, looks: Sequence[Sequence[Sequence[float]]]) -> KnownLooks | None:
        """Of scans, each as ``measures.look_of`` gives it; None of too few."""
        if len(looks) < FEWEST:
            return None
        table = np.array([np.ravel(look) for look in looks], dtype=float)
        return cls(table.mean(axis=0), table.std(axis=0, ddof=1), len(table))

    @cached_property
    def limit(self) -> float:
        """How many deviations away a scan of the same kind may be."""
        share = FALSE_ALARMS / (2 * len(self.mean))
        return float(stats.t.isf(share, self.scans - 1)) * math.sqrt(1 + 1 / self.scans)

    def farthest(self, look: Sequence[Sequence[float]]) -> tuple[int, float]:
        """The measure in which a scan is farthest from the others, and by how many of their deviations."""
        values = np.ravel(np.asarray(look, dtype=float))
        if values.shape != self.mean.shape:
            raise ValueError(f"the scan has {len(values)} measures, the known ones {len(self.mean)}: other channels")
        away = np.abs(values - self.mean) / np.maximum(self.std, LEAST_SPREAD)
        return int(away.argmax()), float(away.max())

    def is_unlike(self, look: Sequence[Sequence[float]]) -> bool:
        """Whether a scan is of another kind."""
        return self.farthest(look)[1] > self.limit

    def as_json(self) -> dict[str, Any]:
        """To be stored."""
        return {"mean": self.mean.round(5).tolist(), "std": self.std.round(5).tolist(), "scans": self.scans}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> KnownLooks:
        """What was stored."""
        return cls(np.array(content["mean"], dtype=float), np.array(content["std"], dtype=float), int(content["scans"]))
