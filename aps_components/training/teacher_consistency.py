"""Mean-teacher consistency: the student is to agree with the teacher's view of the same patches under noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from aps_components.losses import softmax_mse
from aps_components.uncertainty import MonteCarloSamples, predictive_entropy


class SamplingTeacher(Protocol):
    """A teacher that can also be asked for Monte-Carlo samples."""

    def __call__(self, image: Tensor) -> Tensor:
        """Logits [B, C, D, H, W]."""
        ...

    def monte_carlo(self, image: Tensor, *, samples: int) -> MonteCarloSamples:
        """T samples with dropout on."""
        ...


class TeacherTarget(NamedTuple):
    """What the student is compared with, for the N patches that hold unlabelled voxels."""

    rows: Tensor
    """Which patches of the batch these are, [N]."""
    probabilities: Tensor
    """Of the teacher, [N, C, D, H, W]."""
    certain: Tensor
    """bool, [N, 1, D, H, W]: where the teacher is believed."""


@dataclass(frozen=True, kw_only=True)
class TeacherConsistency:
    """Mean teacher (Tarvainen & Valpola 2017, arXiv:1703.01780), or UA-MT.

    With samples it is UA-MT (Yu et al. 2019, arXiv:1907.07034, eqs. 2 and 3): the teacher is believed only where the
    entropy of its Monte-Carlo samples is low.

    Args:
        weight: of the mean squared difference; 0 switches all of it off.
        noise: standard deviation of the noise on the teacher's view, cut at twice that.
        uncertainty_samples: T of UA-MT; 0 believes the teacher everywhere.
    """

    weight: float = 0.0
    noise: float = 0.1
    uncertainty_samples: int = 0

    def __post_init__(self) -> None:
        if min(self.weight, self.noise, self.uncertainty_samples) < 0:
            raise ValueError(
                f"teacher consistency: weight {self.weight}, noise {self.noise} and uncertainty_samples "
                f"{self.uncertainty_samples} must not be negative"
            )

    @torch.no_grad()
    def target(self, teacher: SamplingTeacher, image: Tensor, *, unlabeled: Tensor, rampup: float) -> TeacherTarget:
        """Ask the teacher.

        Args:
            teacher: in eval mode.
            image: [B, in_channels, D, H, W].
            unlabeled: bool, [B, 1, D, H, W].
            rampup: in [0, 1]; the threshold of UA-MT rises with it from 0.75 to 1 times the largest entropy.
        """
        rows = unlabeled.flatten(1).any(dim=1).nonzero()[:, 0]
        image = image[rows]
        noise = (self.noise * torch.randn_like(image)).clamp_(-2 * self.noise, 2 * self.noise)
        if not self.uncertainty_samples:
            probabilities = teacher(image + noise).float().softmax(dim=1)
            return TeacherTarget(rows, probabilities, torch.ones_like(unlabeled[rows]))
        samples = teacher.monte_carlo(image + noise, samples=self.uncertainty_samples).probabilities
        threshold = (0.75 + 0.25 * rampup) * math.log(samples.shape[2])
        return TeacherTarget(rows, samples.mean(dim=0), predictive_entropy(samples) < threshold)

    def loss(self, logits: Tensor, target: TeacherTarget, *, unlabeled: Tensor) -> Tensor:
        """Unweighted, of the student's logits [B, C, D, H, W] on unlabelled voxels where the teacher is believed."""
        probabilities = logits[target.rows].float().softmax(dim=1)
        return softmax_mse(probabilities, target.probabilities, unlabeled[target.rows] & target.certain)
