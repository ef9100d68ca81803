"""DUPG, the decoupled uncertainty prompt generator: Model A's certain places become Model B's point prompts.

A voxel is a good prompt for class c where A is likely to see c and where both the model's and the data's uncertainty
are low. The best voxels that are far enough from each other become the points; all classes and cases at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from aps_components.exporting import exporting

PAD_LABEL = -1
Strategy = Literal["suitability", "random"]


class PointPrompts(NamedTuple):
    """Points of all classes; class c has the slots ``c * K`` to ``(c + 1) * K - 1``, best first."""

    point_coords: Tensor
    """[B, N, 3], voxel indices (d, h, w) as floats; 0 where padded."""
    point_labels: Tensor
    """[B, N], the class, or -1 where a class has fewer than K local maxima."""
    scores: Tensor
    """[B, N], suitability times class probability, in [0, 1]; 0 where padded."""


def normalise_per_case(uncertainty: Tensor) -> Tensor:
    """Min-max normalise each case to [0, 1]; a constant map becomes 0.

    Args:
        uncertainty: [B, 1, D, H, W].
    """
    low = uncertainty.amin(dim=(1, 2, 3, 4), keepdim=True)
    span = uncertainty.amax(dim=(1, 2, 3, 4), keepdim=True) - low
    return torch.where(span > 0, (uncertainty - low) / span.clamp_min(torch.finfo(span.dtype).tiny), 0.0)


def window_maximum(volume: Tensor, *, radius: int | Sequence[int]) -> Tensor:
    """Maximum over the box of sides ``2 * radius + 1`` around each voxel; the radius may differ from axis to axis.

    The same as ``max_pool3d`` with that kernel and stride 1, but separable and by doubling the span: about five times
    faster on a CPU than three one-axis poolings, and the cost hardly grows with the radius.

    Args:
        volume: [B, C, D, H, W].
    """
    radii = (radius,) * 3 if isinstance(radius, int) else radius
    for axis, reach in zip((2, 3, 4), radii, strict=True):
        kernel = 2 * reach + 1
        pad = [0] * 6
        pad[2 * (4 - axis)] = pad[2 * (4 - axis) + 1] = reach
        volume, span = F.pad(volume, pad, value=-torch.inf), 1
        while span < kernel:
            step = min(span, kernel - span)
            length = volume.shape[axis] - step
            volume = torch.maximum(volume.narrow(axis, 0, length), volume.narrow(axis, step, length))
            span += step
    return volume


def _scrambled_index(volume: Tensor) -> Tensor:
    """A fixed, evenly scattered order of its voxels, [1, 1, D, H, W]: exact in float32 up to 2**24 voxels."""
    d, h, w = volume.shape[2:]
    index = volume.new_ones(d * h * w, dtype=torch.long).cumsum(0) - 1  # a trace would keep arange's device
    # In float64, exact up to 2**29 voxels: torch.compile for a GPU takes such an index for 32 bits, which overflow.
    return ((index.double() * 10_368_889 + 7) % 2**24).float().view(1, 1, d, h, w)


def local_maxima(scores: Tensor, *, radius: int | Sequence[int]) -> Tensor:
    """3-D non-maximum suppression: True where no voxel within ``radius`` (Chebyshev) has a higher score.

    Of the equal voxels of a plateau a fixed scattering leaves some that are ``radius`` apart. Zero is no maximum.

    Args:
        scores: [B, C, D, H, W], at least 0.
    Returns:
        bool, [B, C, D, H, W].
    """
    peaks = (scores > 0) & (scores == window_maximum(scores, radius=radius))
    order = torch.where(peaks, _scrambled_index(scores), -torch.inf)
    return peaks & (order == window_maximum(order, radius=radius))


class PromptGenerator:
    """Turns probabilities and two uncertainty maps into point prompts for every class.

    The prompt suitability score is ``PSS = w_e (1 - epistemic) + w_a (1 - aleatoric)`` on the normalised maps; the
    score of a voxel for class c is ``PSS * p_c``. 3-D non-maximum suppression and the K best of each class follow.

    Args:
        points_per_class: K; 0 makes no prompts.
        radius: of the suppression, in voxels, the same along all axes or one for each.
        epistemic_weight: w_e.
        aleatoric_weight: w_a.
        min_probability: a voxel below it is no candidate for the class: without this a class that is not in the volume
            at all would still be given its K least unlikely voxels.
        strategy: ``suitability``, or ``random``: random candidates instead of certain ones (to ablate).
        seed: of the random strategy.
    """

    def __init__(
        self,
        *,
        points_per_class: int = 20,
        radius: int | Sequence[int] = 7,
        epistemic_weight: float = 0.5,
        aleatoric_weight: float = 0.5,
        min_probability: float = 0.9,
        strategy: Strategy = "suitability",
        seed: int = 0,
    ) -> None:
        radii = (radius,) * 3 if isinstance(radius, int) else tuple(radius)
        if points_per_class < 0 or len(radii) != 3 or min(radii) < 0:
            raise ValueError(f"points_per_class {points_per_class} and radius {radius} must not be negative")
        if min(epistemic_weight, aleatoric_weight) < 0:
            raise ValueError(f"weights ({epistemic_weight}, {aleatoric_weight}) must not be negative")
        if strategy not in ("suitability", "random"):
            raise ValueError(f"strategy {strategy!r} must be 'suitability' or 'random'")
        self.points_per_class, self.radius = points_per_class, radii
        self.epistemic_weight, self.aleatoric_weight = epistemic_weight, aleatoric_weight
        self.min_probability, self.strategy, self.seed = min_probability, strategy, seed

    def suitability(self, epistemic: Tensor, aleatoric: Tensor) -> Tensor:
        """PSS of every voxel, [B, 1, D, H, W], from the two maps of that shape in their own units."""
        return self.epistemic_weight * (1 - normalise_per_case(epistemic)) + self.aleatoric_weight * (
            1 - normalise_per_case(aleatoric)
        )

    @torch.no_grad()
    def __call__(
        self, probabilities: Tensor, *, epistemic: Tensor, aleatoric: Tensor, stride: int | Sequence[int] = 1
    ) -> PointPrompts:
        """Choose the points.

        Args:
            probabilities: mean over the Monte-Carlo samples, [B, C, D, H, W].
            epistemic: [B, 1, D, H, W].
            aleatoric: [B, 1, D, H, W].
            stride: the maps hold every stride-th voxel of the volume, along all axes or one for each; the points are in
                voxels of the volume.
        """
        steps = (stride,) * 3 if isinstance(stride, int) else tuple(stride)
        radius = [reach // step for reach, step in zip(self.radius, steps, strict=True)]
        candidates = probabilities >= self.min_probability
        if self.strategy == "random":
            if exporting():
                raise ValueError("strategy 'random' draws its numbers anew, which no export keeps: use 'suitability'")
            generator = torch.Generator().manual_seed(self.seed)
            field = torch.rand(1, *probabilities.shape[1:], generator=generator).to(probabilities.device)
            scores = torch.where(candidates, field.expand_as(probabilities), 0.0)
        else:
            scores = torch.where(candidates, probabilities * self.suitability(epistemic, aleatoric), 0.0)
        return self._best(torch.where(local_maxima(scores, radius=radius), scores, 0.0), steps)

    def _best(self, peaks: Tensor, steps: Sequence[int]) -> PointPrompts:
        """The K highest peaks [B, C, D, H, W] of each class, zeros being none."""
        batch, _, *size = peaks.shape
        _, h, w = size
        count = min(self.points_per_class, int(peaks[0, 0].numel()))
        scores, index = peaks.flatten(2).topk(count, dim=2)  # [B, C, K]
        along = (index // (h * w), index // w % h, index % w)
        coords = torch.stack([step * place for step, place in zip(steps, along, strict=True)], dim=-1).float()
        labels = torch.ones_like(index).cumsum(1) - 1  # a trace would keep the device of an arange
        found = scores > 0
        return PointPrompts(
            torch.where(found[..., None], coords, 0.0).reshape(batch, -1, 3),
            torch.where(found, labels, PAD_LABEL).reshape(batch, -1),
            scores.reshape(batch, -1),
        )
