"""Targets that nobody can know without being told, so that a network has to look at its prompts.

A network whose target follows from the image learns to pass over prompts: they say nothing new. VISTA3D alters 40 % of
its targets for this reason (He et al. 2024, arXiv:2406.05285). An altered target needs no truth: unlabelled scans, with
a teacher's answer in the label's place, teach obedience as well as labelled ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

LabelMap = NDArray[np.integer]
TOUCHING = np.ones((3, 3, 3))


@dataclass(frozen=True, kw_only=True)
class AlteredTargets:
    """How a target is altered; the weights are relative.

    Args:
        other_answer: another model's answer is right here and there: errors that look like a model's own.
        shifted_border: the border of a class moves, in a part of the volume.
        ellipsoid: a piece of a class is added or removed.
        cut: a class ends at a plane.
        cell: voxels of a token along each axis; the size of what is altered goes by it.
    """

    other_answer: float = 0.4
    shifted_border: float = 0.2
    ellipsoid: float = 0.2
    cut: float = 0.1
    cell: tuple[int, int, int] = (8, 8, 8)

    def draw(
        self, target: LabelMap, rng: np.random.Generator, *, num_classes: int, other: LabelMap | None = None
    ) -> tuple[LabelMap, str]:
        """An altered copy of ``target`` [D, H, W], and the name of what was done to it.

        Args:
            target: integers in [0, num_classes).
            rng: where to draw from.
            num_classes: C.
            other: another model's answer to the same image; without one, ``other_answer`` is not drawn.
        """
        weights = {
            "other_answer": self.other_answer if other is not None else 0.0,
            "shifted_border": self.shifted_border,
            "ellipsoid": self.ellipsoid,
            "cut": self.cut,
        }
        share = np.array(list(weights.values()))
        if not share.sum():
            return target.copy(), "nothing"
        name = str(rng.choice(list(weights), p=share / share.sum()))
        altered = self._altered(name, target, rng, num_classes=num_classes, other=other)
        return altered, "nothing" if np.array_equal(altered, target) else name

    def _altered(
        self, name: str, target: LabelMap, rng: np.random.Generator, *, num_classes: int, other: LabelMap | None
    ) -> LabelMap:
        if name == "other_answer" and other is not None:
            return mixed_answers(target, other, rng)
        if name == "shifted_border":
            return shifted_border(target, rng, num_classes=num_classes, cell=self.cell)
        if name == "ellipsoid":
            return with_ellipsoid(target, rng, num_classes=num_classes, cell=self.cell)
        return cut_off(target, rng)


def mixed_answers(target: LabelMap, other: LabelMap, rng: np.random.Generator) -> LabelMap:
    """Each connected piece on which two answers differ goes to one of them, by the toss of a coin."""
    pieces, count = ndimage.label(target != other, structure=TOUCHING)
    taken = np.concatenate([[False], rng.random(count) < 0.5])
    return np.where(taken[pieces], other, target)


def shifted_border(
    target: LabelMap, rng: np.random.Generator, *, num_classes: int, cell: tuple[int, int, int]
) -> LabelMap:
    """A class grows or shrinks by a few voxels within a ball; what it leaves goes to the nearest other class."""
    label = _some_class(target, rng, num_classes=num_classes)
    mask = target == label
    spacing = [8 / step for step in cell]
    steps = float(rng.uniform(1.0, 3.5))
    within = _ellipsoid(target.shape, _near_border(mask, rng), rng.uniform(1.0, 2.5, size=3) * cell)
    if rng.random() < 0.5:
        grown = ndimage.distance_transform_edt(~mask, sampling=spacing) <= steps if mask.any() else mask
        return np.where(grown & within, label, target)
    lost = mask & within & (ndimage.distance_transform_edt(mask, sampling=spacing) <= steps)
    return _without(target, lost, mask)


def with_ellipsoid(
    target: LabelMap, rng: np.random.Generator, *, num_classes: int, cell: tuple[int, int, int]
) -> LabelMap:
    """A piece about the size of a token, near a border, belongs to a class that is drawn."""
    label = _some_class(target, rng, num_classes=num_classes)
    mask = target == label
    piece = _ellipsoid(target.shape, _near_border(mask, rng), rng.uniform(0.3, 1.2, size=3) * cell)
    if rng.random() < 0.5 and label:
        return _without(target, mask & piece, mask)
    return np.where(piece, label, target)


def cut_off(target: LabelMap, rng: np.random.Generator) -> LabelMap:
    """Of one class that is there, what lies beyond a random plane through it is background."""
    present = [int(label) for label in np.unique(target) if label]
    if not present:
        return target.copy()
    mask = target == int(rng.choice(present))
    voxels = np.argwhere(mask)
    normal = rng.normal(size=3)
    place = voxels[rng.integers(len(voxels))]
    beyond = (voxels - place) @ normal > 0
    altered = target.copy()
    altered[tuple(voxels[beyond].T)] = 0
    return altered


def exchanged_classes(target: LabelMap, rng: np.random.Generator, *, num_classes: int) -> LabelMap:
    """Every class has another one's name: a permutation, background among them, that leaves none as it is."""
    shift = int(rng.integers(1, num_classes))
    order = rng.permutation(num_classes)
    table = np.empty(num_classes, dtype=target.dtype)
    table[order] = np.roll(order, shift)
    return table[target]


def _some_class(target: LabelMap, rng: np.random.Generator, *, num_classes: int) -> int:
    """Of those that are there, more often than not; else any."""
    present = np.unique(target)
    return int(rng.choice(present) if rng.random() < 0.8 else rng.integers(num_classes))


def _near_border(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float64]:
    """A voxel on the border of a mask, or anywhere if it has none."""
    border = np.zeros_like(mask)
    for axis in range(3):
        low = tuple(slice(None, -1) if other == axis else slice(None) for other in range(3))
        high = tuple(slice(1, None) if other == axis else slice(None) for other in range(3))
        border[low] |= mask[low] != mask[high]
    places = np.flatnonzero(border)
    index = int(places[rng.integers(len(places))]) if len(places) else int(rng.integers(mask.size))
    return np.array(np.unravel_index(index, mask.shape), dtype=float)


def _ellipsoid(
    shape: tuple[int, ...], centre: NDArray[np.float64], half_axes: NDArray[np.float64]
) -> NDArray[np.bool_]:
    axes = [
        ((np.arange(extent) - middle) / max(half, 0.5)) ** 2
        for extent, middle, half in zip(shape, centre, half_axes, strict=True)
    ]
    return np.asarray(axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :] <= 1)


def _without(target: LabelMap, lost: NDArray[np.bool_], mask: NDArray[np.bool_]) -> LabelMap:
    """What a class loses goes to the nearest voxel's class outside it, as a border moves."""
    if not lost.any() or mask.all():
        return target.copy()
    nearest = ndimage.distance_transform_edt(mask, return_distances=False, return_indices=True)
    return np.where(lost, target[tuple(nearest)], target)
