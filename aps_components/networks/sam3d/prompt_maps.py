"""Prompts as maps on the grid of the image, so that a click acts where it was put.

A token alone says where a click is on the scale of the tokens, 8 voxels. nnInteractive (Isensee et al. 2025,
arXiv:2503.08373) hands clicks to its network as small balls at full resolution; balls whose height falls with the
distance do better than Gaussians (arXiv:2508.21680).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .grid import Size3d

MAPS = 4  # of each class: a person's points, the model's own, boxes, the earlier answer


class Prompts(NamedTuple):
    """Everything that a batch of B volumes is prompted with, all classes at once; -1 pads."""

    point_coords: Tensor
    """[B, N, 3], a person's points, voxel indices (d, h, w)."""
    point_labels: Tensor
    """[B, N], class ids."""
    own_coords: Tensor
    """[B, K, 3], the model's own points."""
    own_labels: Tensor
    """[B, K]."""
    own_weights: Tensor
    """[B, K] in [0, 1]: how sure the model is."""
    boxes: Tensor | None = None
    """[B, M, 2, 3], voxel indices, the least corner first."""
    box_labels: Tensor | None = None
    """[B, M]."""
    stroke_coords: Tensor | None = None
    """[B, S, 3], voxels of scribbles, which make maps and no tokens."""
    stroke_labels: Tensor | None = None
    """[B, S]."""

    @classmethod
    def none(cls, batch: int, *, device: torch.device | str = "cpu") -> Prompts:
        """No prompts for ``batch`` volumes."""
        coords = torch.zeros(batch, 0, 3, device=device)
        labels = torch.zeros(batch, 0, dtype=torch.long, device=device)
        return cls(coords, labels, coords, labels, coords[..., 0])

    @property
    def tokens(self) -> tuple[Tensor, Tensor]:
        """Coordinates [B, N + K, 3] and labels [B, N + K] of everything that becomes a token."""
        coords = torch.cat([self.point_coords.float(), self.own_coords.float()], dim=1)
        return coords, torch.cat([self.point_labels, self.own_labels], dim=1)

    @property
    def marks(self) -> tuple[Tensor, Tensor]:
        """Coordinates [B, N + S, 3] and labels [B, N + S] of all voxels that a person named: points and scribbles."""
        if self.stroke_coords is None or self.stroke_labels is None:
            return self.point_coords, self.point_labels
        coords = torch.cat([self.point_coords, self.stroke_coords], dim=1)
        return coords, torch.cat([self.point_labels, self.stroke_labels], dim=1)


@lru_cache(maxsize=16)
def _ball(radius: tuple[float, float, float]) -> tuple[list[Size3d], list[float]]:
    """Offsets within a ball with these half axes, and its height there: 1 in the middle, towards 0 at the rim."""
    reach = [range(-math.ceil(r), math.ceil(r) + 1) for r in radius]
    offsets: list[Size3d] = []
    heights = []
    for offset in itertools.product(reach[0], reach[1], reach[2]):
        distance = math.sqrt(sum((o / r) ** 2 for o, r in zip(offset, radius, strict=True)))
        if distance < 1:
            offsets.append(offset)
            heights.append(1 - distance)
    return offsets, heights


def point_maps(
    coords: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    num_classes: int,
    size: Sequence[int],
    radius: Sequence[float],
) -> Tensor:
    """A ball around every point, on the map of its class; where balls overlap the higher one counts.

    Args:
        coords: [B, N, 3], voxel indices.
        labels: [B, N], class ids, -1 pads.
        weights: [B, N], height of each ball; 1 where None.
        num_classes: C.
        size: (D, H, W), voxels.
        radius: half axes of the ball along each axis, voxels, above 0. Below 1 it is the voxel alone along that axis.

    Returns:
        [B, C, D, H, W] in [0, 1], float32.
    """
    offsets, heights = _ball((float(radius[0]), float(radius[1]), float(radius[2])))
    # Nothing names a device: a trace would keep it.
    maps = coords.new_zeros(coords.shape[0], num_classes * math.prod(size), dtype=torch.float32)
    if coords.shape[1] == 0:
        return maps.unflatten(1, (num_classes, *size))
    centres = coords.round().long()[:, :, None]
    around = centres + torch.from_numpy(np.array(offsets)).type_as(centres)  # [B, N, K, 3]
    inside = (labels >= 0)[..., None]
    index = labels.clamp(min=0)[..., None].expand(around.shape[:-1])
    for axis, extent in enumerate(size):
        place = around[..., axis]
        inside = inside & (place >= 0) & (place < extent)
        index = index * extent + place.clamp(0, extent - 1)
    height = torch.from_numpy(np.array(heights)).type_as(maps).expand(around.shape[:-1])
    if weights is not None:
        height = height * weights[..., None].float()
    maps = maps.scatter_reduce(1, index.flatten(1), torch.where(inside, height, 0.0).flatten(1), reduce="amax")
    return maps.unflatten(1, (num_classes, *size))


def box_maps(boxes: Tensor, labels: Tensor, *, num_classes: int, size: Sequence[int]) -> Tensor:
    """1 inside every box, corners included, on the map of its class.

    Args:
        boxes: [B, M, 2, 3], voxel indices, the least corner first.
        labels: [B, M], -1 pads.
        num_classes: C.
        size: (D, H, W), voxels.

    Returns:
        [B, C, D, H, W], 0 or 1, float32.
    """
    batch, count = labels.shape
    inside = torch.ones(batch, count, 1, 1, 1, dtype=torch.bool, device=boxes.device)
    for axis, extent in enumerate(size):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = extent
        place = torch.arange(extent, device=boxes.device).view(shape)
        low, high = (boxes[:, :, corner, axis, None, None, None] for corner in (0, 1))
        inside = inside & (place >= low) & (place <= high)
    classes = torch.arange(num_classes, device=boxes.device)
    of_class = labels[:, None] == classes[:, None]  # [B, C, M]
    return torch.einsum("bcm,bmdhw->bcdhw", of_class.float(), inside.float()).clamp_(max=1.0)


class PromptMaps(NamedTuple):
    """Prompts on the grid of the image; all [B, C, D, H, W] but for ``far`` and ``reach``."""

    points: Tensor
    """Balls around a person's points and scribbles, in [0, 1]."""
    own: Tensor
    """Balls around the model's own points, as high as they are sure."""
    boxes: Tensor
    """0 or 1."""
    previous: Tensor | None
    """Log probabilities of the earlier answer, which is corrected; None where there is none."""
    far: Tensor
    """Wide balls around a person's points and scribbles at 1/2, [B, C, D/2, H/2, W/2], in [0, 1]."""
    reach: Tensor
    """Where an earlier answer may change, at 1/2, [B, 1, D/2, H/2, W/2], in [0, 1]; see :func:`reach`."""

    def at(self, size: Sequence[int]) -> Tensor:
        """All maps on a coarser grid, [B, MAPS * C, ...]: the highest of points and boxes, the mean of the answer."""
        marks = [highest(each, size) for each in (self.points, self.own, self.boxes)]
        if self.previous is None:
            return torch.cat([*marks, torch.zeros_like(marks[0])], dim=1)
        cell = [extent // coarse for extent, coarse in zip(self.previous.shape[2:], size, strict=True)]
        return torch.cat([*marks, F.avg_pool3d(self.previous.exp(), cell)], dim=1)  # adaptive, ONNX would not know it


def reach(far: Tensor, boxes: Tensor) -> Tensor:
    """Where a person's prompts may change an earlier answer, at 1/2: [B, 1, ...] in [0, 1], all of it in a box.

    Args:
        far: wide balls around points and scribbles at 1/2, [B, C, D/2, H/2, W/2].
        boxes: 0 or 1, [B, C, D, H, W].
    """
    return torch.maximum((2 * far).clamp(max=1.0), highest(boxes, far.shape[2:])).amax(dim=1, keepdim=True)


def highest(maps: Tensor, size: Sequence[int]) -> Tensor:
    """The highest value within each cell of a coarser grid, whose sizes divide those of the maps.

    Axis by axis over strided views; ``max_pool3d`` takes ten times as long on a CPU.
    """
    for axis, coarse in enumerate(size, start=2):
        factor = maps.shape[axis] // coarse
        views = [maps[(slice(None),) * axis + (slice(first, None, factor),)] for first in range(factor)]
        maps = reduce(torch.maximum, views)
    return maps
