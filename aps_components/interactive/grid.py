"""Two grids of one scan, its own and the network's, and the way between them a box at a time.

MONAI's inverse transforms go through the whole volume, class by class; after a click a small box has changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Box = tuple[slice, slice, slice]
EXACT = 1e-4  # voxels that an axis may drift to the side over its length and still run along another
SLAB = 1 << 22  # voxels interpolated at once


class ScanGrid:
    """From a scan's voxels to the network's: each grid has its shape (D, H, W) and an affine [4, 4] to mm.

    Args:
        scan_shape: of the scan.
        scan_affine: of the scan.
        network_shape: of the volume that the network sees.
        network_affine: of that volume.
    """

    def __init__(
        self,
        scan_shape: Sequence[int],
        scan_affine: NDArray[np.floating],
        *,
        network_shape: Sequence[int],
        network_affine: NDArray[np.floating],
    ) -> None:
        self.shape, self.network_shape = _triple(scan_shape), _triple(network_shape)
        self.affine = np.asarray(scan_affine, dtype=np.float64)
        self.to_network = np.linalg.solve(np.asarray(network_affine, dtype=np.float64), self.affine)
        self.axes = self._axes()

    @property
    def whole(self) -> Box:
        """The whole scan."""
        d, h, w = self.shape
        return slice(0, d), slice(0, h), slice(0, w)

    def network_voxel(self, voxel: Sequence[float]) -> tuple[int, int, int]:
        """The network's voxel that is nearest to a voxel of the scan."""
        place = np.rint((self.to_network @ [*voxel, 1.0])[:3]).astype(int)
        return _triple(np.clip(place, 0, np.array(self.network_shape) - 1))

    def scan_box(self, least: Sequence[int], greatest: Sequence[int]) -> Box:
        """The scan's voxels whose values depend on the network's voxels in a box, both corners inside."""
        low, high = np.array(least) - 1, np.array(greatest) + 1
        low = np.where(low < 0, -np.inf, low)  # beyond the rim the rim's value counts
        high = np.where(high >= self.network_shape, np.inf, high)
        if self.axes is None:
            return self.whole
        sides = []
        for axis, extent in enumerate(self.shape):
            place = self._along(axis)
            inside = np.flatnonzero((place > low[self.axes[axis]]) & (place < high[self.axes[axis]]))
            sides.append(slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(extent, extent))
        return sides[0], sides[1], sides[2]

    def interpolated(self, maps: Tensor, box: Box) -> Tensor:
        """Maps of the network's grid on a box of the scan's, linear; beyond the rim its value counts.

        Args:
            maps: [C, *network_shape].
            box: of the scan.

        Returns:
            [C, *box], float32.
        """
        maps = maps.float()
        if self.axes is None:
            return self._sampled(maps, box)
        for axis, side in enumerate(box):
            maps = _lerped(maps, self._along(axis)[side], axis=1 + self.axes[axis])
        return maps.permute(0, *(1 + axis for axis in self.axes))

    def label_map(self, probabilities: Tensor, box: Box) -> NDArray[np.uint8]:
        """The likeliest class of every voxel of a box of the scan, from probabilities [C, *network_shape]."""
        first, rows = box[0], max(1, SLAB // max(1, _voxels(box[1:])))
        parts = [
            self.interpolated(probabilities, (slice(start, min(start + rows, first.stop)), box[1], box[2]))
            .max(dim=0)
            .indices.to(torch.uint8)
            .cpu()
            for start in range(first.start, first.stop, rows)
        ]
        shape = [side.stop - side.start for side in box]
        return torch.cat(parts).numpy() if parts else np.zeros(shape, dtype=np.uint8)

    def nearest(self, volume: NDArray[np.integer]) -> NDArray[np.integer]:
        """A volume of the scan's grid on the network's, by nearest neighbour."""
        back = np.linalg.inv(self.to_network)
        if self.axes is not None:
            order = np.argsort(self.axes)  # of the network's axes, the scan's
            lines = []
            for axis, extent in enumerate(self.network_shape):
                own = int(order[axis])
                place = back[own, axis] * np.arange(extent) + back[own, 3]
                lines.append(np.clip(np.rint(place).astype(int), 0, self.shape[own] - 1))
            return volume.transpose(order)[np.ix_(*lines)]
        places = np.indices(self.network_shape).reshape(3, -1)
        own_places = np.rint(back[:3, :3] @ places + back[:3, 3:]).astype(int)
        own_places = np.clip(own_places, 0, np.array(self.shape)[:, None] - 1)
        return volume[tuple(own_places)].reshape(self.network_shape)

    def _axes(self) -> tuple[int, int, int] | None:
        """For each axis of the scan, the network's axis that runs along it; None where the grids are askew."""
        turn = np.abs(self.to_network[:3, :3])
        axes = turn.argmax(axis=0)
        aside = turn * np.array(self.shape)
        aside[axes, range(3)] = 0
        return _triple(axes) if len(set(axes.tolist())) == 3 and aside.max() < EXACT else None

    def _along(self, axis: int) -> NDArray[np.float64]:
        """Places of the scan's voxels along one of its axes, on the network's axis that runs along it."""
        assert self.axes is not None
        row = self.to_network[self.axes[axis]]
        return row[axis] * np.arange(self.shape[axis]) + row[3]

    def _sampled(self, maps: Tensor, box: Box) -> Tensor:
        """Of grids that are askew to each other."""
        lines = [torch.arange(side.start, side.stop, dtype=torch.float64) for side in box]
        places = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1)
        matrix = torch.from_numpy(self.to_network)
        places = places @ matrix[:3, :3].T + matrix[:3, 3]
        places = places / (torch.tensor(self.network_shape) - 1).clamp(min=1) * 2 - 1
        grid = places.flip(-1)[None].to(maps)
        return F.grid_sample(maps[None], grid, mode="bilinear", padding_mode="border", align_corners=True)[0]


def _lerped(maps: Tensor, places: NDArray[np.float64], *, axis: int) -> Tensor:
    """Maps at places along an axis, in their voxels."""
    extent = maps.shape[axis]
    places = np.clip(places, 0, extent - 1)
    below = np.floor(places + EXACT).astype(int)
    share = np.where(np.abs(places - below) < EXACT, 0.0, places - below)
    index = torch.from_numpy(below).to(maps.device)
    low = maps.index_select(axis, index)
    if not share.any():
        return low
    shape = [1] * maps.ndim
    shape[axis] = len(places)
    high = maps.index_select(axis, (index + 1).clamp(max=extent - 1))
    return torch.lerp(low, high, torch.from_numpy(share).to(maps).view(shape).expand_as(low))


def _voxels(sides: Sequence[slice]) -> int:
    return int(np.prod([side.stop - side.start for side in sides]))


def _triple(sizes: Sequence[int] | NDArray[np.integer]) -> tuple[int, int, int]:
    d, h, w = (int(size) for size in sizes)
    return d, h, w
