"""What a network sees of a volume around a click, whatever the classes are: one class against the rest.

A click names one class, and asks one thing: which voxels near by are of it? So two classes and fifteen make the same
maps, and what was learned on one organ serves another. Crops around a correction are FocalClick's (Chen et al. 2022,
arXiv:2204.02574); distances to the answer's border beside the image are DeepIGeoS' (Wang et al. 2019,
arXiv:1707.00652).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from aps_components.prompts.moved_border import moved_border
from aps_components.prompts.simulated import Click

Map = NDArray[np.float32]
Side3d = tuple[slice, slice, slice]

REACH = 12.0  # finest voxels from the click to the rim of what is seen
BEYOND = 8.0  # finest voxels further, in which borders are looked for
FARTHEST = 6.0  # finest voxels: a border that is further off is that far
UNIT = 3.0  # finest voxels: distances come in these
NO_BORDER = 8.0  # finest voxels: the distance where there is no border at all
CLICK_BREADTH = 2.0  # finest voxels: of the Gaussian bumps that show clicks
FLATTEST = 1e-3  # deviation of an image without contrast
MAPS = 9


class BorderMaps(NamedTuple):
    """The surroundings of a click; what lies beyond the volume is filled."""

    maps: Map
    """[M, MAPS, d, h, w] for M modalities: the image by its own mean and deviation there; the probability of the
    click's class and of the answer's; the signed distance to the border of the click's class, negative inside; what
    geometry would make this class, 0 or 1; bumps at the click, at earlier clicks of the class and at those of others;
    the click's distance to its class, everywhere the same."""
    away: Map
    """[d, h, w], of each voxel to the click, in finest voxels."""
    inside: Side3d
    """Which part of the volume the maps show."""
    shown: Side3d
    """Where in the maps that part lies."""


def border_maps(
    image: Map,
    probabilities: Map,
    answer: NDArray[np.integer],
    click: Click,
    *,
    said: Sequence[Click] = (),
    spacing: Sequence[float] = (1, 1, 1),
) -> BorderMaps:
    """The maps around one click.

    Args:
        image: [M, D, H, W], as the segmenting network sees it.
        probabilities: [C, D, H, W], of the answer so far.
        answer: the likeliest classes, [D, H, W].
        click: inside the volume.
        said: earlier clicks.
        spacing: size of a voxel along each axis, in units of the finest.
    """
    reach = _reach(spacing)
    around, wide = (_Around(click.voxel, further, answer.shape) for further in (reach, _further(spacing)))
    middle = Click(click.label, wide.centre)
    close = _Around(wide.centre, reach, wide.extent)
    part, classes = answer[wide.inside], probabilities[(slice(None), *wide.inside)]
    own = part == click.label
    box, moved = moved_border(part, middle, spacing=spacing)
    geometry = own.copy()
    geometry[box] = moved
    distance = _signed_distance(own, spacing)
    present = np.take_along_axis(classes, part[None].astype(np.int64), axis=0)[0]
    away = distances_to([0, 0, 0], reach, spacing)
    common = [
        close.of(classes[click.label]),
        close.of(present),
        close.of(np.clip(distance, -FARTHEST, FARTHEST) / UNIT, beyond=FARTHEST / UNIT),
        close.of(geometry),
        _bump(away),
        *_earlier(click, said, reach, spacing),
        np.full_like(away, np.clip(distance[middle.voxel], 0, FARTHEST) / UNIT),
    ]
    seen = [_normalised(around.of(each, beyond=np.nan)) for each in image]
    maps = np.stack([np.stack([each, *common]) for each in seen]).astype(np.float32)
    return BorderMaps(maps, away, around.inside, around.shown)


def needed_part(voxel: Sequence[int], *, extent: Sequence[int], spacing: Sequence[float]) -> Side3d:
    """The part of a volume of a size that the maps around a voxel depend on."""
    return _Around(voxel, _further(spacing), extent).inside


def _reach(spacing: Sequence[float]) -> list[int]:
    return [max(1, round(REACH / step)) for step in spacing]


def _further(spacing: Sequence[float]) -> list[int]:
    return [reach + math.ceil(BEYOND / step) for reach, step in zip(_reach(spacing), spacing, strict=True)]


class _Around:
    """A box around a voxel, part of which may lie beyond the volume."""

    def __init__(self, voxel: Sequence[int], reach: Sequence[int], extent: Sequence[int]) -> None:
        lows = [max(0, index - r) for index, r in zip(voxel, reach, strict=True)]
        highs = [min(size, index + r + 1) for index, r, size in zip(voxel, reach, extent, strict=True)]
        starts = [index - r for index, r in zip(voxel, reach, strict=True)]
        self.size = tuple(2 * r + 1 for r in reach)
        self.extent = tuple(high - low for low, high in zip(lows, highs, strict=True))
        self.inside = _sides(lows, highs)
        first = [low - start for low, start in zip(lows, starts, strict=True)]
        self.shown = _sides(first, [one + size for one, size in zip(first, self.extent, strict=True)])
        d, h, w = (index - low for index, low in zip(voxel, lows, strict=True))
        self.centre = (d, h, w)

    def of(self, volume: NDArray[np.generic], *, beyond: float = 0.0) -> Map:
        """The box's part of a volume [D, H, W], with one value where there is none."""
        found = np.full(self.size, beyond, dtype=np.float32)
        found[self.shown] = volume[self.inside]
        return found


def _sides(lows: Sequence[int], highs: Sequence[int]) -> Side3d:
    d, h, w = (slice(int(low), int(high)) for low, high in zip(lows, highs, strict=True))
    return d, h, w


def distances_to(place: Sequence[int], reach: Sequence[int], spacing: Sequence[float]) -> Map:
    """Of each voxel of a box around its middle to a place, given from the middle; in finest voxels."""
    d, h, w = ((np.arange(-r, r + 1) - index) * step for index, r, step in zip(place, reach, spacing, strict=True))
    return np.sqrt(d[:, None, None] ** 2 + h[None, :, None] ** 2 + w[None, None, :] ** 2).astype(np.float32)


def _bump(away: Map) -> Map:
    return np.exp(-0.5 * (away / CLICK_BREADTH) ** 2)


def _earlier(click: Click, said: Sequence[Click], reach: Sequence[int], spacing: Sequence[float]) -> tuple[Map, Map]:
    """Bumps at earlier clicks of the same class, and of others."""
    same, other = (np.zeros([2 * r + 1 for r in reach], dtype=np.float32) for _ in range(2))
    for one in said:
        place = [there - here for there, here in zip(one.voxel, click.voxel, strict=True)]
        if any(place) and all(abs(index) <= r for index, r in zip(place, reach, strict=True)):
            shown = same if one.label == click.label else other
            np.maximum(shown, _bump(distances_to(place, reach, spacing)), out=shown)
    return same, other


def _signed_distance(own: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float64]:
    """To the border, negative inside; far where there is none."""
    if own.all() or not own.any():
        return np.full(own.shape, NO_BORDER)
    outside, inside = (ndimage.distance_transform_edt(mask, sampling=spacing) for mask in (~own, own))
    return np.asarray(outside - inside)


def _normalised(image: Map) -> Map:
    """By the mean and the deviation of what is there; 0 beyond."""
    beyond = np.isnan(image)
    scaled = (image - np.nanmean(image)) / (np.nanstd(image) + FLATTEST)
    return np.where(beyond, np.float32(0), scaled).astype(np.float32)
