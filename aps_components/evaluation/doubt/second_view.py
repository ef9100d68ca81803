"""A second look: Model A's answer to the scan's mirror image, or to the brighter scan, and how far it is the same.

A network that is sure of a wrong answer gives itself away where another view of the same scan gets another answer: test
time augmentation as a measure of doubt (Wang et al. 2019, arXiv:1807.07356). The scan is mirrored as training did it.
Where training mirrored nothing, dark tissue is made brighter, as training did that.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from aps_components.inference import PromptedSlidingWindowInferer
from aps_components.inference.own_grid import Maps, WholeMaps
from aps_components.inference.tiles import Window
from aps_components.label_map import likeliest_class
from aps_components.models import TwoModels

GAMMA = 0.7  # the lowest that training draws


class MirroredMaps:
    """Maps [C, D, H, W] mirrored back, part by part.

    Args:
        maps: of the mirrored scan.
        axes: that it was mirrored along.
    """

    def __init__(self, maps: Maps, axes: Sequence[int]) -> None:
        self.maps, self.axes = maps, tuple(axes)
        self.channels, self.size = maps.channels, tuple(maps.size)

    def region(self, region: Window, channels: slice = slice(None)) -> Tensor:
        """A part, [C, d, h, w]."""
        d, h, w = (
            slice(size - side.stop, size - side.start) if axis in self.axes else side
            for axis, (side, size) in enumerate(zip(region, self.size, strict=True))
        )
        return self.maps.region((d, h, w), channels).flip([1 + axis for axis in self.axes])

    @property
    def blocks(self) -> Iterator[Window]:
        """Of the volume, in blocks."""
        yield (slice(0, self.size[0]), slice(0, self.size[1]), slice(0, self.size[2]))


@torch.inference_mode()
def second_view(image: Tensor, network: TwoModels, inferer: PromptedSlidingWindowInferer) -> Maps | None:
    """Model A's probabilities for the mirrored scan, mirrored back, or else for the brighter one; None where training
    did neither.

    Args:
        image: [1, in_channels, D, H, W], on the network's device.
        network: in eval mode.
        inferer: whose windows are taken; each is seen once.
    """
    once = copy.copy(inferer)
    once.mirror_axes = []
    if axes := getattr(network, "second_view_axes", ()):  # of a stand-in none
        mirrored = once.predict_stored(image.flip([2 + axis for axis in axes]), model_a_alone(network))
        return MirroredMaps(mirrored.probabilities, axes)
    if getattr(network, "contrast_varied", False):
        return once.predict_stored(brighter(image), model_a_alone(network)).probabilities
    return None


def brighter(image: Tensor, *, gamma: float = GAMMA) -> Tensor:
    """An image of the same range, [1, channels, D, H, W], in which what is dark is brighter, for a gamma below 1."""
    low, high = image.aminmax()
    width = (high - low).clamp_min(torch.finfo(image.dtype).tiny)
    return ((image - low) / width) ** gamma * width + low


class _OfA(torch.nn.Module):
    """Model A alone, as a network that needs no prompts."""

    predictor = "a"

    def __init__(self, network: TwoModels) -> None:
        super().__init__()
        self.network, self.num_classes = network, network.num_classes

    def forward(self, image: Tensor) -> Tensor:
        """Its logits."""
        return self.network.logits_of_a(image)


def model_a_alone(network: TwoModels) -> torch.nn.Module:
    """Model A as a network of its own, in eval mode, which needs no prompts."""
    return _OfA(network).eval()


def agreement(answer: Maps | Tensor, view: Maps) -> list[float | None]:
    """Dice of each foreground class between the answer and another view's; None where neither has the class.

    Args:
        answer: probabilities, [C, D, H, W].
        view: of the same size.
    """
    maps = WholeMaps(answer) if isinstance(answer, Tensor) else answer
    counts = torch.zeros(3, maps.channels, dtype=torch.float64)
    for block in maps.blocks:
        one, other = (likeliest_class(each.region(block), dim=0).flatten().cpu() for each in (maps, view))
        both = one[one == other]
        counts += torch.stack([torch.bincount(each, minlength=maps.channels) for each in (one, other, both)])
    return [2 * both / (one + other) if one + other else None for one, other, both in counts.T[1:].tolist()]
