"""Solids that anatomy is built from, by the distance from their surface in mm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TUBE_SEGMENTS = 5  # straight pieces that stand for one curved tube

Vector = tuple[float, float, float]
Volume = NDArray[np.float32]


@dataclass(frozen=True)
class Ellipsoid:
    """A superellipsoid: `exponent` 2 is an ellipsoid, a larger one is boxier."""

    center: Vector
    radii: Vector
    angles: Vector = (0.0, 0.0, 0.0)
    exponent: float = 2.0

    def distance(self, points: Volume) -> Volume:
        """Roughly the distance from the surface in mm, negative inside; points [3, D, H, W] -> [D, H, W]."""
        axes = (rotation(self.angles) / np.array(self.radii)).T.astype(np.float32)  # row i / radius i
        local = np.tensordot(axes, points - column(self.center), axes=1)
        if self.exponent == 2.0:
            norm = np.sqrt(np.einsum("i...,i...->...", local, local))
        else:
            norm = (np.abs(local) ** np.float32(self.exponent)).sum(axis=0) ** np.float32(1 / self.exponent)
        return (norm - 1) * np.float32(math.prod(self.radii) ** (1 / 3))


@dataclass(frozen=True)
class Tube:
    """A vessel along a quadratic Bezier curve, its radius going from `radii[0]` to `radii[1]`."""

    control_points: tuple[Vector, Vector, Vector]
    radii: tuple[float, float]

    def distance(self, points: Volume) -> Volume:
        """Distance from the surface in mm, negative inside; points [3, D, H, W] -> [D, H, W]."""
        steps = np.linspace(0, 1, TUBE_SEGMENTS + 1, dtype=np.float32)
        curve = _bezier(self.control_points, steps)
        radii = (1 - steps) * self.radii[0] + steps * self.radii[1]
        pieces = zip(curve[:-1], curve[1:], radii[:-1], radii[1:], strict=True)
        nearest = np.full(points.shape[1:], np.inf, dtype=np.float32)
        for start, end, start_radius, end_radius in pieces:
            offset, along = points - column(start), end - start
            position = np.clip(np.tensordot(along / (along @ along), offset, axes=1), 0, 1)
            offset -= along[:, None, None, None] * position
            length = np.sqrt(np.einsum("i...,i...->...", offset, offset))
            np.minimum(nearest, length - start_radius - (end_radius - start_radius) * position, out=nearest)
        return nearest


Solid = Ellipsoid | Tube


@dataclass(frozen=True)
class Structure:
    """Solids of one tissue, melted together over `blend` mm, grown by `margin` mm, painted at `intensity`."""

    name: str
    solids: tuple[Solid, ...]
    intensity: float
    blend: float = 0.0
    margin: float = 0.0

    def distance(self, points: Volume) -> Volume:
        """Distance from the surface of the union in mm, negative inside; [3, D, H, W] -> [D, H, W]."""
        union = self.solids[0].distance(points)
        for solid in self.solids[1:]:
            union = _smooth_minimum(union, solid.distance(points), blend=self.blend)
        return union - np.float32(self.margin)


def rotation(angles: Vector) -> NDArray[np.float64]:
    """Rotation about the third, then the second, then the first axis."""
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    about_first = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_second = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    about_third = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return about_first @ about_second @ about_third


def column(vector: Sequence[float] | Volume) -> Volume:
    """[3] -> [3, 1, 1, 1], to go with points [3, D, H, W]."""
    return np.asarray(vector, dtype=np.float32)[:, None, None, None]


def _smooth_minimum(first: Volume, second: Volume, *, blend: float) -> Volume:
    """Polynomial smooth minimum of two distances, exact further than `blend` from where they are equal."""
    if blend == 0:
        return np.minimum(first, second)
    closeness = np.maximum(np.float32(blend) - np.abs(first - second), 0)
    return np.minimum(first, second) - closeness * closeness / np.float32(4 * blend)


def _bezier(control_points: tuple[Vector, Vector, Vector], steps: Volume) -> Volume:
    start, middle, end = np.asarray(control_points, dtype=np.float32)
    t = steps[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
