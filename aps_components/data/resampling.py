"""Linear interpolation along one axis after another, which is all that a change of the voxel size needs.

MONAI looks up every voxel of the new grid by its three coordinates, in float64: 40 bytes for each of them, and more for
the volume as float64. Between grids whose axes are the same the three coordinates are independent of each other.
Computed in float64 and rounded once, the answer is MONAI's but for last bits: of values halfway between two of float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from monai.utils import TraceKeys
from torch import Tensor

ALONG_AXES = 1e-9  # voxels per voxel, of what an axis may take of another one: rounding
SAME = 1e-6  # voxels, by which the new places may be off the old ones
AT_ONCE = 4_000_000  # voxels of the new grid, in float64


class AxisMap(NamedTuple):
    """Where the voxels of a new grid lie along one axis of an old one."""

    below: Tensor
    """[n], index of the old voxel at or below each new one."""
    above: Tensor
    """[n], that of the next one; the last one has none beyond."""
    share: Tensor
    """[n], float64 in [0, 1), of the one above."""

    @classmethod
    def of(cls, scale: float, offset: float, *, old: int, new: int, device: torch.device | str = "cpu") -> AxisMap:
        """New voxel i lies at ``scale * i + offset``; beyond the rim is the rim.

        Args:
            scale: old voxels per new one.
            offset: of the first new voxel.
            old: size of the old axis.
            new: size of the new axis.
            device: of the indices.
        """
        places = (scale * torch.arange(new, dtype=torch.float64) + offset).clamp(0, old - 1)
        # A place that is off a voxel by rounding alone is on it.
        places = torch.where((places - places.round()).abs() < ALONG_AXES, places.round(), places)
        below = places.floor().long()
        return cls(
            below.to(device), (below + 1).clamp_max(old - 1).to(device), (places - below).to(device, torch.float64)
        )

    def part(self, first: int, last: int) -> AxisMap:
        """Of the new voxels first to last - 1."""
        return AxisMap(*(each[first:last] for each in self))

    def shifted(self, by: int) -> AxisMap:
        """For an old axis that begins ``by`` voxels later."""
        return AxisMap(self.below - by, self.above - by, self.share)

    @property
    def is_identity(self) -> bool:
        """Whether every new voxel is the old one of its index."""
        indices = torch.arange(len(self.below), device=self.below.device)
        return bool((self.below == indices).all() and (self.share == 0).all())

    def apply(self, volume: Tensor, *, dim: int) -> Tensor:
        """Interpolate a float64 volume along one of its axes."""
        low = volume.index_select(dim, self.below)
        shape = [1] * volume.ndim
        shape[dim] = -1
        return low.lerp_(volume.index_select(dim, self.above), self.share.view(shape).expand_as(low))


def axis_maps(
    transform: Any, *, old: Sequence[int], new: Sequence[int], device: torch.device | str = "cpu"
) -> list[AxisMap] | None:
    """The maps of the three axes, or None where the grids have other axes.

    Args:
        transform: [4, 4], from indices of the new grid to those of the old one.
        old: size of the old grid.
        new: size of the new grid.
        device: of the maps.
    """
    matrix = np.asarray(transform, dtype=float)
    turned = matrix[:3, :3] - np.diag(matrix.diagonal()[:3])
    if np.abs(turned).max() > ALONG_AXES:
        return None
    return [
        AxisMap.of(matrix[axis, axis], matrix[axis, 3], old=int(old[axis]), new=int(new[axis]), device=device)
        for axis in range(3)
    ]


def interpolate(volume: Tensor, maps: Sequence[AxisMap]) -> Tensor:
    """A volume on a new grid, some slabs at a time: float64 in between, float32 in the end.

    Args:
        volume: [C, D, H, W].
        maps: of its three axes.
    """
    size, order = [len(each.below) for each in maps], best_order(maps, volume.shape[1:])
    result = torch.empty(len(volume), *size, dtype=torch.float32, device=volume.device)
    widest = max(volume.shape[2], size[1]) * max(volume.shape[3], size[2])
    rows = max(1, AT_ONCE // widest)
    for channel, target in zip(volume, result, strict=True):
        for first in range(0, size[0], rows):
            slab = maps[0].part(first, first + rows)
            low, high = int(slab.below.min()), int(slab.above.max()) + 1
            target[first : first + rows] = interpolated(
                channel[low:high].double(), [slab.shifted(low), *maps[1:]], order
            )
    return result


def best_order(maps: Sequence[AxisMap], old: Sequence[int]) -> list[int]:
    """The axes, those that become shortest first."""
    return sorted(range(3), key=lambda axis: (len(maps[axis].below) / old[axis], -axis))


def interpolated(block: Tensor, maps: Sequence[AxisMap], order: Sequence[int]) -> Tensor:
    """A float64 block [D, H, W] on a new grid, float64; one axis after another."""
    for axis in order:
        if not (len(maps[axis].below) == block.shape[axis] and maps[axis].is_identity):
            block = maps[axis].apply(block, dim=axis)
    return block


class LinearResample(SpatialResample):
    """MONAI's SpatialResample, axis by axis where both grids have the same axes, in a tenth of its memory.

    What it does not know, such as ``nearest``, it leaves to MONAI.
    """

    def __call__(
        self,
        img: Tensor,
        dst_affine: Tensor | None = None,
        spatial_size: Sequence[int] | Tensor | int | None = None,
        mode: str | int | None = None,
        padding_mode: str | None = None,
        align_corners: bool | None = None,
        dtype: Any = None,
        lazy: bool | None = None,
    ) -> Tensor:
        """Resample [C, D, H, W]; the arguments are MONAI's."""
        given = (mode or self.mode, padding_mode or self.padding_mode)
        known = given == ("bilinear", "border") and not (lazy or self.lazy) and isinstance(img, MetaTensor)
        found = self._resampled(img, dst_affine, spatial_size, align_corners) if known else None
        if found is not None:
            return found
        return super().__call__(img, dst_affine, spatial_size, mode, padding_mode, align_corners, dtype, lazy)

    def _resampled(self, img: MetaTensor, dst_affine: Any, spatial_size: Any, align_corners: Any) -> MetaTensor | None:
        if img.ndim != 4 or dst_affine is None or spatial_size is None or isinstance(spatial_size, int):
            return None
        source, target = img.affine.double(), torch.as_tensor(dst_affine, dtype=torch.float64)
        old, new = [int(size) for size in img.shape[1:]], [int(size) for size in spatial_size]
        transform = torch.as_tensor(np.linalg.solve(source.numpy(), target.numpy()))
        maps = axis_maps(transform, old=old, new=new, device=img.device)
        if maps is None or (old == new and torch.allclose(transform, torch.eye(4, dtype=torch.float64), atol=SAME)):
            return None
        done = {"dtype": "float64", "mode": "bilinear", "padding_mode": "border", "src_affine": source}
        record = self.track_transform_meta(
            img,
            sp_size=new,
            affine=transform,
            extra_info={**done, "align_corners": TraceKeys.NONE if align_corners is None else align_corners},
            orig_size=tuple(old),
            transform_info=self.get_transform_info(),
        )
        return MetaTensor(interpolate(img.as_tensor(), maps)).copy_meta_from(record)

    def inverse(self, data: Tensor) -> Tensor:
        """Back to the grid before."""
        done = self.pop_transform(data)
        extra = done[TraceKeys.EXTRA_INFO]
        corners = extra["align_corners"]
        with self.trace_transform(False):
            return LinearResample.__call__(
                self,
                data,
                dst_affine=extra["src_affine"],
                spatial_size=done[TraceKeys.ORIG_SIZE],
                mode=extra["mode"],
                padding_mode=extra["padding_mode"],
                align_corners=False if corners == TraceKeys.NONE else corners,
                dtype=torch.float64,
            )
