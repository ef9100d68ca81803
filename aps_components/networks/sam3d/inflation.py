"""How each kind of 2-D SAM weight becomes a 3-D one.

Every function takes the official tensor and the shape it should get, changes only what the third axis changes,
and leaves widths alone: a tensor of another width comes back with a shape that does not fit, and is left.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .position_tables import resize_relative_table

Inflate = Callable[[Tensor, torch.Size], Tensor]


def as_it_is(source: Tensor, shape: torch.Size) -> Tensor:
    """The official tensor itself."""
    return source


def patch_embedding(source: Tensor, shape: torch.Size) -> Tensor:
    """16 x 16 x RGB kernel to 8 x 8 x 8 x in_channels; [E, 3, 16, 16] -> [E, in_channels, 8, 8, 8].

    Box-filtered down and scaled by the pixels merged, so that a volume gives exactly what SAM gives to it at
    twice the in-plane size, in grey, if it does not change along depth and its channels are alike.
    """
    in_channels, depth, height, width = shape[1:]
    merged = source.shape[-2] * source.shape[-1] / (height * width)
    kernel = F.interpolate(source, size=(height, width), mode="area") * merged
    kernel = kernel.sum(1)[:, None, None] / (in_channels * depth)  # [E, 1, 1, h, w]
    return kernel.expand(-1, in_channels, depth, -1, -1)


def position_embedding(source: Tensor, shape: torch.Size) -> Tensor:
    """[1, 64, 64, E] -> [1, d, h, w, E], resized in the plane and the same at every depth."""
    plane = F.interpolate(
        source.movedim(-1, 1), size=tuple(shape[2:4]), mode="bilinear", antialias=True, align_corners=False
    )
    return plane.movedim(1, -1)[:, None].expand(-1, shape[1], -1, -1, -1)


def relative_table(source: Tensor, shape: torch.Size) -> Tensor:
    """[L, C] -> [length, C]."""
    return resize_relative_table(source, shape[0])


def centre_plane(source: Tensor, shape: torch.Size) -> Tensor:
    """A convolution that acts on every slice as the 2-D one does; [O, I, k, k] -> [O, I, depth, k, k].

    Not averaged over depth: that gives the 2-D response only where nothing changes along depth and away from
    the first and last slice, whose padding would take a third of it. The zero planes learn all the same.
    """
    kernel = source.new_zeros(*source.shape[:2], shape[2], *source.shape[2:])
    kernel[:, :, shape[2] // 2] = source
    return kernel


def depth_averaged(source: Tensor, shape: torch.Size) -> Tensor:
    """A strided convolution that merges slices; [O, I, k, k] -> [O, I, depth, k, k], summing to the 2-D one."""
    return (source / shape[2])[:, :, None].expand(-1, -1, shape[2], -1, -1)


def depth_repeated(source: Tensor, shape: torch.Size) -> Tensor:
    """A transposed convolution that splits slices, each part the 2-D one's; [I, O, k, k] -> [I, O, depth, k, k]."""
    return source[:, :, None].expand(-1, -1, shape[2], -1, -1)


def foreground_mask_input(source: Tensor, shape: torch.Size) -> Tensor:
    """[O, 1, k, k] -> [O, C, depth, k, k]: every foreground class as SAM's one mask, background unused."""
    kernel = depth_averaged(source, shape).repeat(1, shape[1], 1, 1, 1)
    kernel[:, 0] = 0
    return kernel


def mean_over_masks(source: Tensor, shape: torch.Size) -> Tensor:
    """[4, ...] of the official mask outputs -> [C, ...], their mean for every class."""
    return source.mean(0, keepdim=True).expand(shape[0], *source.shape[1:])


def class_points(source: Tensor, shape: torch.Size) -> Tensor:
    """Negative and positive point [2, E] -> [C, E]: background is negative, every other class positive."""
    return source[[0] + [1] * (shape[0] - 1)]


def fourier_frequencies(source: Tensor, shape: torch.Size) -> Tensor:
    """[2, F] for (x, y) -> [3, F] for (d, h, w).

    Depth reuses the in-plane frequencies in another order: of the same law, and tied to neither axis.
    """
    x, y = source
    return torch.stack([x.roll(1, dims=0), y, x])
