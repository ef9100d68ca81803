"""What a person would say who looks at a segmentation: clicks in its errors, boxes, scribbles.

Everything here draws; nothing is applied to a network. The draws come from one ``numpy.random.Generator``, so that a
training, or a study with a simulated annotator, replays.

How others draw: SAM 2 clicks into errors (Ravi et al. 2024, arXiv:2408.00714); DeepEdit prefers the depth of an error
(Diaz-Pinto et al. 2022, arXiv:2305.10655); nnInteractive adds scribbles and boxes with jitter (Isensee et al. 2025,
arXiv:2503.08373).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Voxel = tuple[int, int, int]
LabelMap = NDArray[np.integer]
Mask = NDArray[np.bool_]
TOUCHING = np.ones((3, 3, 3))


class Click(NamedTuple):
    """A voxel and the class that it has."""

    label: int
    voxel: Voxel


def holds(part: Sequence[slice], voxel: Sequence[int]) -> bool:
    """Whether a voxel lies in a part of a volume."""
    return all(side.start <= index < side.stop for side, index in zip(part, voxel, strict=True))


class Box(NamedTuple):
    """The corners of a class, both inside."""

    label: int
    least: Voxel
    greatest: Voxel


class Scribble(NamedTuple):
    """Voxels of a class along a line."""

    label: int
    voxels: list[Voxel]


def deepest_error(prediction: LabelMap, target: LabelMap, *, spacing: Sequence[float] = (1, 1, 1)) -> Click | None:
    """The deepest voxel of the largest connected error; None where there is no error.

    Errors of different true classes are different errors. Depth is the distance to the nearest voxel that is no part of
    the error; what lies outside the volume is none either.

    Args:
        prediction: [D, H, W].
        target: [D, H, W].
        spacing: voxel size along each axis, any unit.
    """
    wrong = prediction != target
    if not wrong.any():
        return None
    best: tuple[int, int, tuple[slice, ...], Mask] | None = None
    for label in np.unique(target[wrong]).tolist():
        mask = wrong & (target == label)
        pieces, _ = ndimage.label(mask, structure=TOUCHING)
        sizes = np.bincount(pieces.ravel())[1:]
        largest = int(sizes.argmax())
        if best is None or sizes[largest] > best[0]:
            box = ndimage.find_objects(pieces, max_label=largest + 1)[largest]
            best = int(sizes[largest]), label, box, pieces[box] == largest + 1
    assert best is not None
    _, label, box, piece = best
    return Click(int(label), _moved(_deepest(piece, spacing), box))


def any_error(prediction: LabelMap, target: LabelMap, rng: np.random.Generator) -> Click | None:
    """A random voxel that is wrong, each true class as likely as the others; None where there is no error."""
    wrong = prediction != target
    labels = np.unique(target[wrong])
    if not len(labels):
        return None
    label = int(rng.choice(labels))
    return Click(label, _any(wrong & (target == label), rng))


def inner_point(mask: Mask, rng: np.random.Generator, *, label: int) -> Click:
    """A voxel of a mask that is not empty; deeper ones are likelier, as a person avoids the rim.

    Args:
        mask: [D, H, W].
        rng: where to draw from.
        label: the class of the mask.
    """
    voxels = np.argwhere(mask)
    few = voxels[rng.integers(len(voxels), size=min(8, len(voxels)))]
    reach = np.array(mask.shape) - 1
    depth = [
        sum(bool(mask[tuple(np.clip(voxel + step, 0, reach))]) for step in _AROUND) + rng.random() for voxel in few
    ]
    return Click(label, _voxel(few[int(np.argmax(depth))]))


_AROUND = np.array([step for axis in range(3) for reach in (1, 2, 4) for step in (reach * np.eye(3, dtype=int)[axis],)])
_AROUND = np.concatenate([_AROUND, -_AROUND])


def jittered_box(mask: Mask, rng: np.random.Generator, *, label: int, jitter: float = 0.1) -> Box:
    """The bounding box of a mask that is not empty, each side moved by up to a share of the box's length.

    Args:
        mask: [D, H, W].
        rng: where to draw from.
        label: the class of the mask.
        jitter: the most that a side moves, as a share of the length along its axis; at least one voxel.
    """
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    least, greatest = [], []
    for axis, side in enumerate(box):
        reach = max(1, round(jitter * (side.stop - side.start)))
        moves = rng.integers(-reach, reach + 1, size=2)
        low, high = sorted((side.start + int(moves[0]), side.stop - 1 + int(moves[1])))
        least.append(min(max(low, 0), mask.shape[axis] - 1))
        greatest.append(min(max(high, 0), mask.shape[axis] - 1))
    return Box(label, _voxel(least), _voxel(greatest))


def scribble_inside(mask: Mask, rng: np.random.Generator, *, label: int, bends: int = 2) -> Scribble:
    """A line through a mask that is not empty, drawn in one slice, along its inside.

    It runs between random voxels of the slice's inner half (by depth) and leaves out what lies outside the mask.

    Args:
        mask: [D, H, W].
        rng: where to draw from.
        label: the class of the mask.
        bends: of the line.
    """
    axis = int(rng.integers(3))
    areas = mask.sum(axis=tuple(other for other in range(3) if other != axis))
    index = int(rng.choice(len(areas), p=areas / areas.sum()))
    plane = np.take(mask, index, axis=axis)
    depth = ndimage.distance_transform_edt(np.pad(plane, 1))[1:-1, 1:-1]
    inner = np.argwhere(depth >= 0.5 * depth.max())
    stops = inner[rng.integers(len(inner), size=bends + 2)]
    line = np.concatenate([_between(one, other) for one, other in itertools.pairwise(stops)])
    line = np.unique(line, axis=0)
    line = line[plane[tuple(line.T)]]
    return Scribble(label, [_voxel(np.insert(place, axis, index)) for place in line])


def _between(one: NDArray[np.int_], other: NDArray[np.int_]) -> NDArray[np.int_]:
    """The pixels of a straight line, both ends included; [n, 2]."""
    steps = int(np.abs(other - one).max()) + 1
    return np.rint(np.linspace(one, other, steps)).astype(int)


def _deepest(piece: Mask, spacing: Sequence[float]) -> NDArray[np.int_]:
    """Of equally deep voxels the one nearest to the middle of the piece."""
    depth = ndimage.distance_transform_edt(np.pad(piece, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    deepest = np.argwhere(depth >= depth.max() - 1e-6)
    away = (deepest - np.argwhere(piece).mean(axis=0)) * np.asarray(spacing)
    return deepest[int((away**2).sum(axis=1).argmin())]


def _moved(voxel: NDArray[np.int_], box: tuple[slice, ...]) -> Voxel:
    return _voxel([index + side.start for index, side in zip(voxel, box, strict=True)])


def _any(mask: Mask, rng: np.random.Generator) -> Voxel:
    voxels = np.flatnonzero(mask)
    return _voxel(np.unravel_index(int(voxels[rng.integers(len(voxels))]), mask.shape))


def _voxel(index: Sequence[int] | NDArray[np.int_] | tuple[np.intp, ...]) -> Voxel:
    d, h, w = (int(value) for value in index)
    return d, h, w
