"""Sizes of volumes, and of the token grids they become."""

from collections.abc import Sequence

Size3d = tuple[int, int, int]


def embedding_grid(image_size: Sequence[int], stride: int) -> Size3d:
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
    if len(size) != 3 or any(extent < stride or extent % stride for extent in size):
        raise ValueError(f"image_size {size} must be divisible by {stride}")
    return size[0] // stride, size[1] // stride, size[2] // stride
