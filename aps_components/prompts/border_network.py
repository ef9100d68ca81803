"""Where the border of a class lies, after a click said that it lies elsewhere: learned from models' own errors.

Geometry alone moves the border past the click (:mod:`aps_components.prompts.moved_border`). This small network begins
there, and looks at the image: at which edge does the moved border end? It knows no class and no organ, only "the
clicked class or not" in a crop around the click, as FocalClick's refinement (Chen et al. 2022, arXiv:2204.02574). It
was trained on errors that models of folds made on scans that they had not seen (``studies/borders.py``), for no others
look like those that people correct. Its figures: ``docs/results/clicks.md``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from aps_components.convolution import Conv3d
from aps_components.prompts.border_maps import MAPS, Map, border_maps
from aps_components.prompts.moved_border import MovedBorder
from aps_components.prompts.simulated import TOUCHING, Click

WEIGHTS = Path(__file__).with_name("border_network.pt")
CHANNELS = 16
GEOMETRY = 4  # which of the maps geometry makes
TRUSTED = 3.0  # logit of what geometry says, before the network speaks
SURE = 1.5  # logit that a voxel needs: too far is worse than not far enough
FARTHEST = 10.0  # finest voxels from the click that may change
SLOPE = 0.1  # of the leaky ReLUs


class BorderNetwork(nn.Module):
    """A U-Net of two levels that corrects what geometry says.

    Args:
        channels: at full size; twice as many at half.

    Shapes:
        maps of :func:`border_maps`, [B, MAPS, d, h, w], any size -> logits of the clicked class, [B, 1, d, h, w].
    """

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        self.fine = nn.Sequential(*_layers(MAPS, channels, channels))
        self.coarse = nn.Sequential(
            nn.AvgPool3d(2, ceil_mode=True),
            *_layers(channels, 2 * channels, 2 * channels),
            *_layer(2 * channels, 2 * channels, dilation=2),
            nn.Conv3d(2 * channels, channels, kernel_size=1),
        )
        last = nn.Conv3d(channels, 1, kernel_size=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.joined = nn.Sequential(*_layers(2 * channels, channels, channels), last)

    def forward(self, maps: Tensor) -> Tensor:
        """Logits of the clicked class; those of geometry before any training."""
        fine = self.fine(maps)
        coarse = F.interpolate(self.coarse(fine), size=fine.shape[2:], mode="trilinear")
        geometry = 2 * maps[:, GEOMETRY : GEOMETRY + 1] - 1
        return self.joined(torch.cat([fine, coarse], dim=1)) + TRUSTED * geometry


def _layer(inputs: int, outputs: int, *, dilation: int = 1) -> list[nn.Module]:
    return [Conv3d(inputs, outputs, kernel_size=3, padding=dilation, dilation=dilation), nn.LeakyReLU(SLOPE)]


def _layers(*widths: int) -> list[nn.Module]:
    return [layer for inputs, outputs in itertools.pairwise(widths) for layer in _layer(inputs, outputs)]


@lru_cache(maxsize=4)
def border_network(device: str = "cpu") -> BorderNetwork:
    """The trained one that comes with the package, in eval mode."""
    with torch.device("meta"):  # which draws no random numbers: a training that goes on would miss them
        network = BorderNetwork()
    weights = torch.load(WEIGHTS, map_location="cpu", weights_only=True)
    network.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
    return network.requires_grad_(False).to(device).eval()


@torch.no_grad()
def learned_border(
    image: Map,
    probabilities: Map,
    answer: NDArray[np.integer],
    click: Click,
    *,
    said: Sequence[Click] = (),
    spacing: Sequence[float] = (1, 1, 1),
    network: BorderNetwork,
) -> MovedBorder:
    """The region of a click's class when its border moves, by the image, to where a click says that it is.

    Args:
        image: [M, D, H, W], as the segmenting network sees it; with several modalities the mean of the logits counts.
        probabilities: [C, D, H, W], of the answer so far.
        answer: the likeliest classes, [D, H, W].
        click: inside the volume.
        said: earlier clicks.
        spacing: size of a voxel along each axis, in units of the finest.
        network: of :func:`border_network`, or another.

    Returns:
        what becomes the click's class, what has it already included: the connected part that holds the click, none of
        it further than :data:`FARTHEST` from it.
    """
    seen = border_maps(image, probabilities, answer, click, said=said, spacing=spacing)
    device = next(network.parameters()).device
    with torch.autocast(device.type, enabled=False):
        logits = network(torch.from_numpy(seen.maps).to(device)).mean(dim=0)[0].cpu().numpy()
    inside = ((logits > SURE) & (seen.away <= FARTHEST) | (seen.away < 1))[seen.shown]
    own = answer[seen.inside] == click.label
    pieces, _ = ndimage.label(inside & ~own, structure=TOUCHING)
    place = tuple(index - side.start for index, side in zip(click.voxel, seen.inside, strict=True))
    return MovedBorder(seen.inside, own | ((pieces == pieces[place]) & (pieces > 0)))
