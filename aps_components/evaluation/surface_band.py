"""The voxels near a surface: elsewhere nearly everything is sure and right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def surface_band(*label_maps: NDArray[np.integer], reach_mm: float, spacing: Sequence[float]) -> NDArray[np.bool_]:
    """Voxels within some distance of a surface of any of the label maps; none where they have no surface.

    A surface is every voxel with a face neighbour of another class, on both sides of a border.

    Args:
        label_maps: each [D, H, W].
        reach_mm: largest distance between voxel centres.
        spacing: of the voxels along D, H and W, mm.
    """
    surface = np.zeros(label_maps[0].shape, dtype=bool)
    for label_map in label_maps:
        for axis in range(label_map.ndim):
            differs = np.diff(label_map.astype(np.int16), axis=axis) != 0
            head, tail = (slice(None),) * axis + (slice(-1),), (slice(None),) * axis + (slice(1, None),)
            surface[head] |= differs
            surface[tail] |= differs
    found = ndimage.find_objects(surface.astype(np.uint8))
    if not found:
        return surface
    margins = (int(reach_mm / size) + 1 for size in spacing)
    near = tuple(
        slice(max(0, part.start - margin), part.stop + margin) for part, margin in zip(found[0], margins, strict=True)
    )
    band = np.zeros_like(surface)
    band[near] = ndimage.distance_transform_edt(~surface[near], sampling=spacing) <= reach_mm
    return band
