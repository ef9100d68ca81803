"""Are probabilities what they say? On flat arrays of voxels.

References:
    Guo et al. 2017, On Calibration of Modern Neural Networks (arXiv:1706.04599): expected calibration error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15


@dataclass(frozen=True, eq=False)
class Calibration:
    """How sure and how right, by bins of confidence of equal width over [0, 1].

    Args:
        voxels: in each bin, [bins].
        confidence: sum of the highest class probability of the bin's voxels, [bins].
        correct: voxels of the bin whose likeliest class is the true one, [bins].
    """

    voxels: NDArray[np.int64]
    confidence: NDArray[np.floating]
    correct: NDArray[np.int64]

    @classmethod
    def of(cls, confidence: NDArray[np.floating], correct: NDArray[np.bool_], *, bins: int = BINS) -> Calibration:
        """Count voxels; a bin holds its upper edge, as in Guo et al.

        Args:
            confidence: the highest class probability of each voxel.
            correct: whether that class is the true one.
            bins: of equal width.
        """
        confidence = np.ravel(confidence).astype(np.float64)
        number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
        voxels = np.bincount(number, minlength=bins)
        sure = np.bincount(number, weights=confidence, minlength=bins).astype(np.float64)
        right = np.bincount(number, weights=np.ravel(correct), minlength=bins).astype(np.int64)
        return cls(voxels, sure, right)

    def error(self) -> float:
        """Expected calibration error: mean over the voxels of |accuracy - confidence| of their bin; NaN without any."""
        total = self.voxels.sum()
        return float(np.abs(self.correct - self.confidence).sum() / total) if total else math.nan

    def overconfidence(self) -> float:
        """Mean confidence minus accuracy: above 0 it promises more than it keeps; NaN without any voxel."""
        total = self.voxels.sum()
        return float((self.confidence.sum() - self.correct.sum()) / total) if total else math.nan
