"""What an answer says of itself, and what a scan looks like: numbers that need no truth.

Soft Dice: of a class that is answered at the voxels S, with its probability p, ``2 sum_S p / (sum p + |S|)``, the Dice
that is to be expected if the probabilities are right and voxels err alone. Borges et al. (arXiv:2402.10665) prove it
near the best that can be said then, and found it the best of all that they compared on six medical datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aps_components.evaluation.reliability import Calibration
from aps_components.inference.own_grid import Maps, WholeMaps
from aps_components.inference.temperature import LEAST, calibrated
from aps_components.uncertainty import entropy

MOST_VALUES = 8_000_000  # of probabilities that are looked at for several temperatures; more know no better
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
LOOK = ("1 % quantile", "25 % quantile", "median", "75 % quantile", "99 % quantile", "roughness")
MOST_VOXELS = 4_000_000  # of an image


class ClassDoubt(NamedTuple):
    """Of one class of an answer."""

    soft_dice: float | None
    """In [0, 1]; None where the class is answered nowhere."""
    entropy: float
    """Mean over the voxels of the class, nats; 0 where there is none."""


def class_doubts(probabilities: Maps | Tensor, *, temperature: float = 1.0) -> list[ClassDoubt]:
    """Of each foreground class, from 1 on; maps are looked at block by block.

    Args:
        probabilities: [C, D, H, W], or maps of such.
        temperature: at which the probabilities are right.
    """
    maps = WholeMaps(probabilities) if isinstance(probabilities, Tensor) else probabilities
    sums = torch.zeros(4, maps.channels, dtype=torch.float64)
    for block in maps.blocks:
        sums += _sums(calibrated(maps.region(block).float(), temperature, dim=0)).cpu()
    return [_doubt(*column) for column in sums.T[1:].tolist()]


def _sums(probabilities: Tensor) -> Tensor:
    """Of each class: its probability, its voxels, its probability there, the entropy there; [4, C]."""
    classes = len(probabilities)
    best, answer = (each.flatten() for each in probabilities.max(dim=0))
    uncertain = entropy(probabilities, dim=0).flatten()
    by_class = [torch.bincount(answer, weights=values, minlength=classes) for values in (best, uncertain)]
    voxels = torch.bincount(answer, minlength=classes)
    return torch.stack([probabilities.flatten(1).double().sum(dim=1), voxels, *by_class]).double()


def _doubt(probability: float, voxels: float, inside: float, uncertain: float) -> ClassDoubt:
    if not voxels:
        return ClassDoubt(None, 0.0)
    return ClassDoubt(min(2 * inside / (probability + voxels), 1.0), uncertain / voxels)


def thinned(probabilities: Tensor) -> tuple[Tensor, int]:
    """At most :data:`MOST_VALUES` of [C, D, H, W], evenly spread, and every how manieth voxel they are."""
    stride = 1
    while probabilities.numel() / stride**3 > MOST_VALUES:
        stride += 1
    return probabilities[:, ::stride, ::stride, ::stride], stride


def soft_dice_by_temperature(probabilities: Tensor, temperatures: Sequence[float]) -> list[list[float | None]]:
    """Of each foreground class, at each temperature; from every so manieth voxel of a large answer [C, D, H, W]."""
    some, _ = thinned(probabilities)
    found = [[doubt.soft_dice for doubt in class_doubts(some, temperature=value)] for value in temperatures]
    return [list(of_class) for of_class in zip(*found, strict=True)]


def surprise_by_temperature(probabilities: Tensor, truth: Tensor, temperatures: Sequence[float]) -> list[float]:
    """Mean negative log-probability of the truth, nats, at each temperature; NaN without a voxel.

    Args:
        probabilities: of some voxels, [C, N].
        truth: their classes, integers, [N].
        temperatures: to try.
    """
    probabilities = probabilities.clamp_min(LEAST)  # also at 1, which would be judged by another floor than the others
    of_truth = (calibrated(probabilities, value, dim=0).gather(0, truth[None]) for value in temperatures)
    return [float(-found.log().double().mean()) for found in of_truth]


def calibration_error_by_temperature(
    probabilities: Tensor, truth: Tensor, temperatures: Sequence[float]
) -> list[float]:
    """Expected calibration error at each temperature; arguments as of :func:`surprise_by_temperature`."""
    right = (probabilities.argmax(dim=0) == truth).cpu().numpy()
    sure = (calibrated(probabilities, value, dim=0).amax(dim=0).cpu().numpy() for value in temperatures)
    return [Calibration.of(confidence, right).error() for confidence in sure]


def look_of(image: Any) -> list[list[float]]:
    """What a normalised image looks like, channel by channel, as the values of :data:`LOOK`.

    Quantiles of the intensity, and how much a voxel differs from the next one as a share of the whole spread: noise,
    blur and another resolution show there.

    Args:
        image: as the network gets it, [in_channels, D, H, W].
    """
    return [_look(channel) for channel in torch.as_tensor(image).float()]


def _look(channel: Tensor) -> list[float]:
    axis = max(range(3), key=lambda index: channel.shape[index])
    steps = channel.diff(dim=axis).abs().mean() if channel.shape[axis] > 1 else channel.new_zeros(())
    flat = channel.flatten()
    flat = flat[:: -(-len(flat) // MOST_VOXELS)]
    spread = flat.std().clamp_min(1e-6) if len(flat) > 1 else flat.new_ones(())
    at = flat.sort().values[[round(share * (len(flat) - 1)) for share in QUANTILES]]
    return [round(float(value), 5) for value in (*at, steps / spread)]
