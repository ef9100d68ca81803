"""An answer after clicks and scribbles, before Model B looks at it: the border of the class that was said moves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from aps_components.label_map import likeliest_class
from aps_components.prompts.border_maps import needed_part
from aps_components.prompts.border_network import FARTHEST, border_network, learned_border
from aps_components.prompts.moved_border import MovedBorder, moved_border
from aps_components.prompts.simulated import Click, Scribble

MOST_MOVES = 12  # of a border past one scribble
MOVES_IN_ALL = 240  # past many scribbles, if each has one: a move takes 10 ms
APART = 4  # voxels along a scribble from one that is shown as a click to the next
BESIDE = 1.5  # how far from a scribble the class may come, over the depth of its deepest voxel in another class
LEAST_BESIDE = 1.5  # finest voxels
Mask = NDArray[np.bool_]
LIKELY = 0.75  # probability of the click's class in there: Model B may still think otherwise


def with_moved_borders(
    probabilities: Tensor,
    clicks: Sequence[Click],
    *,
    scribbles: Sequence[Scribble] = (),
    image: Tensor | None = None,
    said: Sequence[Click] = (),
    spacing: Sequence[float] = (1, 1, 1),
) -> Tensor:
    """The same answer with the border moved past every scribble and every click, one after the other.

    A scribble is a row of clicks: the border moves past the voxel of it that is deepest in another class, until none is
    in one. It is drawn along an error, so what lies far beside it does not change.

    Args:
        probabilities: [C, D, H, W], of the classes.
        clicks: inside the volume.
        scribbles: likewise.
        image: [M, D, H, W], as the segmenting network sees it; without one the border moves by geometry alone.
        said: clicks before these.
        spacing: size of a voxel along each axis, in units of the finest.
    """
    moved = probabilities.clone()
    answer = likeliest_class(moved, dim=0)[0].cpu().numpy()
    earlier = list(said)

    def border(click: Click) -> MovedBorder:
        if image is None:
            return moved_border(answer, click, spacing=spacing)
        return _learned(image, moved, answer, click, said=earlier, spacing=spacing)

    def words() -> Iterator[tuple[Click, Mask | None]]:
        """Each with where the border may move, if that is not everywhere."""
        moves = max(1, min(MOST_MOVES, MOVES_IN_ALL // max(1, len(scribbles))))
        for line in scribbles:
            earlier.extend(Click(line.label, voxel) for voxel in line.voxels[::APART])
            yield from islice(_along(line, answer, spacing), moves)
        yield from ((click, None) for click in clicks)

    for click, within in words():
        box, inside = border(click)
        new = inside & (answer[box] != click.label)
        if within is not None:
            new &= within[box]
        answer[box][new] = click.label
        part = moved[(slice(None), *box)]
        told = part * ((1 - LIKELY) / (1 - part[click.label]).clamp_min(1e-6))
        told[click.label] = LIKELY
        part.copy_(torch.where(torch.from_numpy(new).to(part.device), told, part))
        earlier.append(click)
    return moved


def _along(line: Scribble, answer: NDArray[np.integer], spacing: Sequence[float]) -> Iterator[tuple[Click, Mask]]:
    """The voxels of a scribble past which the border moves, each with where it may; the answer changes between one and
    the next."""
    if not line.voxels:
        return
    part = _around(line, answer.shape, spacing)
    lows = [side.start for side in part]
    drawn = np.zeros([side.stop - side.start for side in part], dtype=bool)
    places = tuple((np.array(line.voxels) - lows).T)
    drawn[places] = True
    within: Mask | None = None
    while True:
        others = answer[part] != line.label
        if not (wrong := others[places]).any():
            return
        depths = np.where(wrong, _distances(others, spacing)[places], -1)
        if within is None:
            within = np.zeros(answer.shape, dtype=bool)
            within[part] = _distances(~drawn, spacing) <= max(LEAST_BESIDE, BESIDE * depths.max())
        yield Click(line.label, line.voxels[int(depths.argmax())]), within


def _around(line: Scribble, extent: Sequence[int], spacing: Sequence[float]) -> tuple[slice, slice, slice]:
    """The part of a volume in which a scribble may change something."""
    low, high = np.min(line.voxels, axis=0), np.max(line.voxels, axis=0)
    reach = [math.ceil(BESIDE * FARTHEST / step) for step in spacing]
    d, h, w = (
        slice(max(int(a) - r, 0), min(int(b) + r + 1, size))
        for a, b, r, size in zip(low, high, reach, extent, strict=True)
    )
    return d, h, w


def _distances(mask: Mask, spacing: Sequence[float]) -> NDArray[np.float64]:
    """Of a mask's voxels to the nearest one beside it; where there is none, as far as anything may change."""
    if mask.all():
        return np.full(mask.shape, FARTHEST)
    return np.minimum(ndimage.distance_transform_edt(mask, sampling=spacing), FARTHEST)


def _learned(
    image: Tensor,
    probabilities: Tensor,
    answer: NDArray[np.integer],
    click: Click,
    *,
    said: Sequence[Click],
    spacing: Sequence[float],
) -> MovedBorder:
    """``learned_border`` of the part of the volume that it depends on, which alone leaves a GPU."""
    part = needed_part(click.voxel, extent=answer.shape, spacing=spacing)

    def there(one: Click) -> Click:
        d, h, w = (index - side.start for index, side in zip(one.voxel, part, strict=True))
        return Click(one.label, (d, h, w))

    here = (slice(None), *part)
    box, inside = learned_border(
        image[here].float().cpu().numpy(),
        probabilities[here].float().cpu().numpy(),
        answer[part],
        there(click),
        said=[there(one) for one in said],
        spacing=spacing,
        network=border_network(str(probabilities.device)),
    )
    d, h, w = (slice(side.start + inner.start, side.start + inner.stop) for side, inner in zip(part, box, strict=True))
    return MovedBorder((d, h, w), inside)
