"""Does a score of uncertainty find the errors? On flat arrays of voxels.

Uncertainty maps are often exactly 0 over most of a scan. Voxels that tie have no order; every measure here takes its
expectation over all orders of them, so that no figure depends on where in memory a voxel lies.

References:
    Geifman & El-Yaniv 2017, Selective Classification for Deep Neural Networks (arXiv:1705.08500): risk and coverage.
    Geifman et al. 2018, Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers (arXiv:1805.08206): AURC and
        E-AURC.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
Mask = NDArray[np.bool_]
Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ErrorRanking:
    """Voxels in the order of their uncertainty, least first, those that tie as one group.

    Args:
        voxels: of each group, [G].
        errors: of each group, [G].
    """

    voxels: Counts
    errors: Counts

    @classmethod
    def of(cls, uncertainty: Scores, error: Mask) -> ErrorRanking:
        """Sort voxels.

        Args:
            uncertainty: of each voxel, in any unit.
            error: whether its label is wrong, of the same shape.

        Raises:
            ValueError: other shapes, or an uncertainty that is NaN.
        """
        uncertainty, error = np.ravel(uncertainty), np.ravel(error)
        if uncertainty.shape != error.shape or np.isnan(uncertainty).any():
            raise ValueError(
                f"uncertainty {uncertainty.shape} must be free of NaN and have the shape of error {error.shape}"
            )
        _, group, voxels = np.unique(uncertainty, return_inverse=True, return_counts=True)
        return cls(voxels, np.bincount(group, weights=error, minlength=len(voxels)).astype(np.int64))

    @property
    def error_rate(self) -> float:
        """Share of wrong voxels; NaN without any voxel."""
        return float(self.errors.sum() / self.voxels.sum()) if len(self.voxels) else math.nan

    def auroc(self) -> float:
        """Probability that a wrong voxel is more uncertain than a right one, ties counting half.

        NaN where all are right, or all are wrong.
        """
        right = self.voxels - self.errors
        pairs = float(self.errors.sum()) * float(right.sum())
        below = np.cumsum(right) - right
        return float((self.errors * (below + right / 2)).sum() / pairs) if pairs else math.nan

    def risk(self) -> Scores:
        """Error rate among the n least uncertain voxels, for n = 1 to N: [N]."""
        total = np.arange(1, self.voxels.sum() + 1)
        errors = np.interp(total, np.concatenate([[0], np.cumsum(self.voxels)]), [0, *np.cumsum(self.errors)])
        return errors / total

    def aurc(self) -> float:
        """Area under the risk-coverage curve: the mean of :meth:`risk`; lower is better, NaN without any voxel."""
        return float(self.risk().mean()) if len(self.voxels) else math.nan

    def excess_aurc(self) -> float:
        """What :meth:`aurc` exceeds that of a perfect order by, in which every error comes last; 0 is best."""
        errors = int(self.errors.sum())
        perfect = ErrorRanking(np.array([int(self.voxels.sum()) - errors, errors]), np.array([0, errors]))
        return self.aurc() - perfect.aurc()
