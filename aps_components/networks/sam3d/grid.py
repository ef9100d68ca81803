"""Sizes of volumes, and of the token grids they become."""

from __future__ import annotations

import math
from collections.abc import Sequence

Size3d = tuple[int, int, int]

ISOTROPIC_STRIDES: tuple[Size3d, Size3d, Size3d] = ((2, 2, 2), (2, 2, 2), (2, 2, 2))
ISOTROPIC_KERNELS: tuple[Size3d, Size3d, Size3d] = ((3, 3, 3), (3, 3, 3), (3, 3, 3))


def embedding_grid(image_size: Sequence[int], stride: Sequence[int]) -> Size3d:
    """The grid of embedding cells of a volume.

    Args:
        image_size: (D, H, W), voxels.
        stride: voxels per cell along each axis.

    Returns:
        (d, h, w), cells.

    Raises:
        ValueError: an axis is not a multiple of the stride, or is empty.
    """
    size = tuple(int(extent) for extent in image_size)
    if len(size) != 3 or any(extent < step or extent % step for extent, step in zip(size, stride, strict=True)):
        raise ValueError(f"image_size {size} must be divisible by {tuple(stride)}")
    return size[0] // stride[0], size[1] // stride[1], size[2] // stride[2]


def product(strides: Sequence[Sequence[int]]) -> Size3d:
    """Strides one after the other as one; of none (1, 1, 1)."""
    d, h, w = (math.prod(stride[axis] for stride in strides) for axis in range(3))
    return d, h, w
