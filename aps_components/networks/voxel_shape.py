"""From the shape of a voxel to a network's strides and kernels, much as nnU-Net's planner does.

Reference:
    Isensee et al. 2021, nnU-Net (doi:10.1038/s41592-020-01008-z), supplementary note 4: an axis is halved only where
    its voxels are about as fine as those of the finest axis. nnU-Net looks along it from there on, too. Here that waits
    until it is halved: the levels in between cost three times as much with kernels of 3, and on thick slices the time
    is better spent on iterations (``docs/results/thick-slices.md``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

Triple = tuple[int, int, int]

HALVINGS = 4
TOKEN_LEVELS = 3  # strides whose product is a token of Model B
ISOTROPIC_STRIDES: tuple[Triple, ...] = ((2, 2, 2),) * HALVINGS
FAR_COARSER = 2.0  # an axis this many times as coarse as the finest is left alone
FEWEST_CELLS = 4  # that a halving may leave along a coarse axis


class VoxelShape(NamedTuple):
    """Strides and kernels of a network for voxels of one shape."""

    strides: tuple[Triple, ...]
    """Of each level to the one above, finest first."""
    kernel_sizes: tuple[Triple, ...]
    """Of each level, finest first; one more than strides."""


def network_shape(spacing: Sequence[float], roi_size: Sequence[int]) -> VoxelShape:
    """Strides and kernels for four halvings.

    The axes whose voxels are at most twice as coarse as the finest are halved at every level. A coarser axis is halved
    once the others have caught up with it, as often as at least four cells are left. If that is less often than there
    are levels left, it is halved at the last of them: the first three strides make the tokens of Model B, in which
    slices are to stay apart as long as they can. Its kernel is 1 until it is halved and 3 afterwards; at the last level
    it is 3 in any case.

    Args:
        spacing: of a voxel, mm, along D, H, W.
        roi_size: of a patch, in voxels.

    Example:
        1.5 x 1.5 x 10 mm and 144 x 144 x 8 voxels: the strides (2, 2, 1) three times and (2, 2, 2), and the kernels
        (3, 3, 1) four times and (3, 3, 3).
    """
    columns = [_axis_shape(size, extent, finest=min(spacing)) for size, extent in zip(spacing, roi_size, strict=True)]
    strides = tuple(zip(*(halvings for halvings, _ in columns), strict=True))
    kernel_sizes = tuple(zip(*(kernels for _, kernels in columns), strict=True))
    return VoxelShape(strides, kernel_sizes)


def _axis_shape(size: float, extent: int, *, finest: float) -> tuple[list[int], list[int]]:
    """Strides and kernels along one axis of voxels of ``size`` mm, where the finest axis has ``finest`` mm."""
    reached = level_reached(size, finest=finest)
    halvings = most_halvings(size, extent, finest=finest)
    while reached and extent % 2**halvings:
        halvings -= 1
    looked_along = max(1, halvings) if reached else HALVINGS + 1  # levels
    return [1] * (HALVINGS - halvings) + [2] * halvings, [1] * (HALVINGS + 1 - looked_along) + [3] * looked_along


def level_reached(size: float, *, finest: float) -> int:
    """The level from which on an axis of ``size`` mm is not far coarser than the finest; the last at the latest."""
    levels = (level for level in range(HALVINGS) if size <= FAR_COARSER * finest * 2**level)
    return next(levels, HALVINGS)


def most_halvings(size: float, extent: float, *, finest: float) -> int:
    """How often an axis may be halved: always where it is fine, else while enough cells are left.

    Args:
        size: of its voxels, mm.
        extent: how many there are.
        finest: voxel size of the finest axis, mm.
    """
    reached = level_reached(size, finest=finest)
    return min(HALVINGS - reached, int(math.log2(max(1.0, extent / FEWEST_CELLS)))) if reached else HALVINGS


def total_stride(strides: Sequence[Triple]) -> Triple:
    """The product of strides, along each axis."""
    depth, height, width = (math.prod(axis) for axis in zip(*strides, strict=True))
    return depth, height, width


def isotropic_kernels(strides: Sequence[Triple]) -> tuple[Triple, ...]:
    """Kernels of 3 at every level."""
    return ((3, 3, 3),) * (len(strides) + 1)


def checked_strides(strides: Sequence[Sequence[int]] | None, *, exactly: int | None = HALVINGS) -> tuple[Triple, ...]:
    """The strides as they were given; four halvings of every axis where they are None.

    Args:
        strides: of each level to the one above, finest first.
        exactly: how many there must be; None for three, which make the tokens of Model B, or more.

    Raises:
        ValueError: there are more or fewer, or one is no triple of whole numbers from 1 on.
    """
    if strides is None:
        return ISOTROPIC_STRIDES
    count = len(strides) if _are_triples(strides) else 0
    if count != exactly if exactly else count < TOKEN_LEVELS:
        wanted = exactly or f"{TOKEN_LEVELS} or more"
        raise ValueError(f"strides {strides!r} must be {wanted} triples of whole numbers from 1 on, or null")
    return tuple((stride[0], stride[1], stride[2]) for stride in strides)


def checked_kernels(
    kernel_sizes: Sequence[Sequence[int]] | None, *, strides: Sequence[Triple] = ISOTROPIC_STRIDES
) -> tuple[Triple, ...]:
    """The kernels as they were given; 3 everywhere where they are None.

    Raises:
        ValueError: they are not one triple of odd numbers for each level.
    """
    if kernel_sizes is None:
        return isotropic_kernels(strides)
    levels = len(strides) + 1
    fitting = _are_triples(kernel_sizes) and len(kernel_sizes) == levels
    if not fitting or not all(size % 2 for kernel in kernel_sizes for size in kernel):
        raise ValueError(f"kernel_sizes {kernel_sizes!r} must be {levels} triples of odd numbers, or null")
    return tuple((kernel[0], kernel[1], kernel[2]) for kernel in kernel_sizes)


def levels_of(backbone: str) -> int | None:
    """How many strides a backbone must have; None where it takes any number from three on."""
    return HALVINGS if backbone == "vnet" else None


def roi_faults(roi_size: Sequence[int], strides: Sequence[Triple]) -> list[str]:
    """What stands against a patch of ``roi_size`` voxels for a network of these strides, a line each."""
    stride = total_stride(strides)
    whole = [size for size in roi_size if isinstance(size, int) and not isinstance(size, bool) and size > 0]
    if not len(whole) == len(roi_size) == 3 or any(size % step for size, step in zip(whole, stride, strict=True)):
        numbers = [size if isinstance(size, int | float) else 0 for size in roi_size]
        nearest = [max(step, round(size / step) * step) for size, step in zip(numbers, stride, strict=False)]
        return [f"roi_size {list(roi_size)} must be three sizes divisible by {by_axis(stride)}: try {nearest}"]
    if all(size == step for size, step in zip(roi_size, stride, strict=True)):
        return [
            f"roi_size {list(roi_size)} leaves one voxel at the bottom of the network, which normalisation makes 0: "
            f"take at least {2 * max(stride)} along one axis"
        ]
    return []


def by_axis(sizes: Sequence[int]) -> str:
    """One number where all agree: ``16``, else ``16 x 16 x 2``."""
    return str(sizes[0]) if len(set(sizes)) == 1 else " x ".join(map(str, sizes))


def listed_triples(triples: Sequence[Sequence[int]]) -> list[list[int]]:
    """Triples as a configuration writes them."""
    return [list(triple) for triple in triples]


def _are_triples(value: object) -> bool:
    return _is_listed(value) and all(
        _is_listed(triple) and len(triple) == 3 and all(_is_count(size) for size in triple) for triple in value
    )


def _is_listed(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
