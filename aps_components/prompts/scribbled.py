"""A scribble as a row of clicks: the places of it past which a border moves, and how far beside it the class may come.

A scribble is drawn along an error. So it tells where the error ends lengthwise, and its deepest voxel how broad it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from aps_components.prompts.border_network import FARTHEST
from aps_components.prompts.simulated import Click, Scribble, Voxel

Mask = NDArray[np.bool_]
Box = tuple[slice, slice, slice]

MOST_MOVES = 12  # of a border past one stroke
MOVES_IN_ALL = 240  # past all strokes of a call; a move takes about 10 ms
CELL = 4  # voxels: strokes are this far apart at least, and of the voxels in such a cube one is shown as a click
TOUCHING = 1.75  # cells: the corner of a cube, and no further
BESIDE = 1.5  # how far from a stroke the class may come, over the depth of its deepest voxel in another class
LEAST_BESIDE = 1.5  # finest voxels


@dataclass(frozen=True)
class Region:
    """A part of a volume."""

    box: Box
    inside: Mask
    """Of the box, which voxels."""

    def on(self, other: Sequence[slice], shape: Sequence[int]) -> Mask:
        """Which voxels of another box, of a shape, belong to it."""
        found = np.zeros(shape, dtype=bool)
        ours, theirs = [], []
        for side, start, length in zip(self.box, (side.start for side in other), shape, strict=True):
            low, high = max(side.start, start), min(side.stop, start + length)
            ours.append(slice(low - side.start, max(high, low) - side.start))
            theirs.append(slice(low - start, max(high, low) - start))
        found[tuple(theirs)] = self.inside[tuple(ours)]
        return found


@dataclass(frozen=True)
class Stroke:
    """The connected part of a scribble."""

    label: int
    voxels: NDArray[np.int_]
    """[N, 3]."""
    shown: list[Click]
    """Some of them, a few voxels apart."""

    def moves(self, answer: NDArray[np.integer], spacing: Sequence[float]) -> Iterator[tuple[Click, Region]]:
        """The voxels past which the border moves, the deepest first, each with where it may.

        Args:
            answer: [D, H, W]; whoever asks changes it between one and the next.
            spacing: size of a voxel along each axis, in units of the finest.
        """
        part = self._around(answer.shape, spacing)
        places = tuple((self.voxels - [side.start for side in part]).T)
        drawn = np.zeros([side.stop - side.start for side in part], dtype=bool)
        drawn[places] = True
        region: Region | None = None
        while True:
            others = answer[part] != self.label
            if not (wrong := others[places]).any():
                return
            depths = np.where(wrong, _depths(others, spacing)[places], -1)
            if region is None:
                limit = max(LEAST_BESIDE, BESIDE * float(depths.max()))
                region = Region(part, _depths(~drawn, spacing) <= limit)
            yield Click(self.label, _voxel(self.voxels[int(depths.argmax())])), region

    def _around(self, extent: Sequence[int], spacing: Sequence[float]) -> Box:
        """The part of a volume in which something may change."""
        reach = [math.ceil(BESIDE * FARTHEST / step) for step in spacing]
        low, high = self.voxels.min(axis=0), self.voxels.max(axis=0)
        d, h, w = (
            slice(max(int(a) - r, 0), min(int(b) + r + 1, size))
            for a, b, r, size in zip(low, high, reach, extent, strict=True)
        )
        return d, h, w


def strokes_of(scribble: Scribble) -> list[Stroke]:
    """The parts of a scribble that lie together, in the order in which they begin; a viewer sends all that were drawn
    as one."""
    if not scribble.voxels:
        return []
    voxels = np.array(scribble.voxels)
    cells, first, cell_of = np.unique(voxels // CELL, axis=0, return_index=True, return_inverse=True)
    pairs = KDTree(cells).query_pairs(TOUCHING, output_type="ndarray")
    count = len(cells)
    graph = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, group_of_cell = connected_components(graph, directed=False)
    groups = group_of_cell[cell_of.ravel()]
    strokes = []
    for group in dict.fromkeys(groups.tolist()):
        shown = np.sort(first[group_of_cell == group])
        strokes.append(
            Stroke(
                scribble.label,
                voxels[groups == group],
                [Click(scribble.label, _voxel(voxels[index])) for index in shown],
            )
        )
    return strokes


def moves_past(
    scribbles: Sequence[Scribble], answer: NDArray[np.integer], *, said: list[Click], spacing: Sequence[float]
) -> Iterator[tuple[Click, Region]]:
    """The voxels of scribbles past which the border moves, each with where it may; the answer changes in between.

    Args:
        scribbles: inside the volume.
        answer: [D, H, W].
        said: receives what is shown of a stroke as clicks, before its first voxel comes.
        spacing: size of a voxel along each axis, in units of the finest.
    """
    strokes = [stroke for scribble in scribbles for stroke in strokes_of(scribble)]
    each = max(1, min(MOST_MOVES, MOVES_IN_ALL // max(1, len(strokes))))

    def moves() -> Iterator[tuple[Click, Region]]:
        for stroke in strokes:
            said.extend(stroke.shown)
            yield from islice(stroke.moves(answer, spacing), each)

    return islice(moves(), MOVES_IN_ALL)


def _depths(mask: Mask, spacing: Sequence[float]) -> NDArray[np.float64]:
    """Of a mask's voxels to the nearest one beside it; where there is none, as far as anything may change."""
    if mask.all():
        return np.full(mask.shape, FARTHEST)
    return np.minimum(ndimage.distance_transform_edt(mask, sampling=spacing), FARTHEST)


def _voxel(place: NDArray[np.int_]) -> Voxel:
    d, h, w = (int(index) for index in place)
    return d, h, w
