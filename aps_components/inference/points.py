"""Model A's own points in a whole volume, and in a window of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aps_components.data.partial import NOT_LABELED
from aps_components.inference.tiles import Window
from aps_components.networks.sam3d import Prompts
from aps_components.prompts import PAD_LABEL, PointPrompts

Flip = tuple[int, ...]


class PromptPoint(NamedTuple):
    """A point prompt in a whole volume."""

    label: int
    voxel: tuple[int, int, int]
    """(d, h, w) on the grid that the network sees."""
    score: float
    """In (0, 1]."""


def listed(prompts: PointPrompts) -> list[PromptPoint]:
    """The real points of one volume, by class and then best first."""
    real = prompts.point_labels != PAD_LABEL
    points = [
        PromptPoint(label, (voxel[0], voxel[1], voxel[2]), score)
        for label, voxel, score in zip(
            prompts.point_labels[real].tolist(),
            prompts.point_coords[real].long().tolist(),
            prompts.scores[real].tolist(),
            strict=True,
        )
    ]
    return sorted(points, key=lambda point: (point.label, -point.score, point.voxel))


def in_their_class(
    points: Iterable[PromptPoint],
    label: Any,
    *,
    together: Collection[int] | None = None,
    undrawn: Tensor | None = None,
) -> list[bool]:
    """Whether each point lies in its class, of those on voxels whose class a label tells.

    Args:
        points: on the label's grid.
        label: label map [D, H, W], ``NOT_LABELED`` where nobody labelled.
        together: the points' classes, which count as one; None where each is one of its own.
        undrawn: bool by class, those that nobody drew: with one, a voxel of the background may have another class.
    """
    known = ((point, int(label[point.voxel])) for point in points)
    return [
        value in (together or (point.label,))
        for point, value in known
        if value != NOT_LABELED and (value != 0 or undrawn is None or not bool(undrawn.any()))
    ]


def prompts_in(
    points: Sequence[PromptPoint], window: Window, *, slots: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The points in a window as coordinates there [1, K, 3], labels [1, K] and scores [1, K]; K is at least ``slots``.

    Pads are tokens: Model B is to see as many of them as in training.
    """
    inside = [
        point
        for point in points
        if all(side.start <= index < side.stop for index, side in zip(point.voxel, window, strict=True))
    ]
    count = max(slots, len(inside))
    coords, labels, scores = torch.zeros(1, count, 3), torch.full((1, count), PAD_LABEL), torch.zeros(1, count)
    if inside:
        start = torch.tensor([side.start for side in window])
        coords[0, : len(inside)] = torch.tensor([point.voxel for point in inside]) - start
        labels[0, : len(inside)] = torch.tensor([point.label for point in inside])
        scores[0, : len(inside)] = torch.tensor([point.score for point in inside])
    return coords.to(device), labels.to(device), scores.to(device)


def mirrored_prompts(prompts: Prompts, flip: Flip, size: Sequence[int]) -> Prompts:
    """The same prompts in a window that is flipped along some axes.

    Args:
        prompts: in voxels of the window.
        flip: axes, 0 to 2.
        size: (D, H, W) of the window.
    """

    def turned(coords: Tensor) -> Tensor:
        coords = coords.clone()
        for axis in flip:
            coords[..., axis] = size[axis] - 1 - coords[..., axis]
        return coords

    if not flip:
        return prompts
    boxes = None if prompts.boxes is None else turned(prompts.boxes).sort(dim=2).values
    strokes = None if prompts.stroke_coords is None else turned(prompts.stroke_coords)
    return prompts._replace(
        point_coords=turned(prompts.point_coords),
        own_coords=turned(prompts.own_coords),
        boxes=boxes,
        stroke_coords=strokes,
    )
