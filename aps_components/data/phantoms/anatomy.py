"""One patient and one scan of it, drawn at random: all the random numbers of a phantom but its noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aps_components.data.phantoms.solids import Ellipsoid, Solid, Structure, Tube, Vector


@dataclass(frozen=True)
class PhantomParameters:
    """All that makes one phantom, the seed of its noise included.

    Args:
        structures: painted in this order, later ones over earlier ones; brightness 1 is a typical blood pool.
        atrium: the labelled structure, painted last, inside a wall of `wall_thickness` mm.
        rotation: of the whole anatomy, radians about the three axes.
        translation: of the whole anatomy, reference mm.
        scale: of the whole anatomy.
        bias: coefficients of the log bias field's first- and second-order terms.
        gain: scanner units per unit of brightness.
        noise: standard deviation of the Rician noise, in units of brightness.
        texture: relative standard deviation of the smooth unevenness within tissues.
        blur: standard deviation of the point spread, in voxels.
        noise_seed: of noise and texture.
    """

    structures: tuple[Structure, ...]
    atrium: Structure
    wall_thickness: float
    wall_intensity: float
    rotation: Vector
    translation: Vector
    scale: float
    bias: tuple[float, ...]
    gain: float
    noise: float
    texture: float
    blur: float
    noise_seed: int


def draw_phantom(rng: np.random.Generator) -> PhantomParameters:
    """Draw one patient and one scan of it."""
    blood = rng.uniform(0.75, 1.15)
    muscle = blood * rng.uniform(0.38, 0.72)
    body, veins, continuations = _draw_atrium(rng)
    atrium = Structure("left atrium", (*body, *veins), blood, blend=rng.uniform(2.0, 4.0))
    structures = (
        *_draw_chest(rng, muscle),
        *_draw_heart(rng, blood, muscle),
        Structure("pulmonary veins", continuations, blood * rng.uniform(0.9, 1.0)),
    )
    return PhantomParameters(
        structures=structures,
        atrium=atrium,
        wall_thickness=rng.uniform(0.8, 1.8),
        wall_intensity=muscle * rng.uniform(0.7, 1.3),
        rotation=_jitter(rng, (0, 0, 0), math.radians(10)),
        translation=_jitter(rng, (0, 0, 0), 3.5),
        scale=rng.uniform(0.9, 1.1),
        bias=tuple(rng.normal(0, 0.13, size=9).tolist()),
        gain=rng.uniform(250, 700),
        noise=rng.uniform(0.04, 0.11),
        texture=rng.uniform(0.02, 0.06),
        blur=rng.uniform(0.45, 0.75),
        noise_seed=int(rng.integers(2**32)),
    )


def _draw_atrium(rng: np.random.Generator) -> tuple[tuple[Solid, ...], tuple[Solid, ...], tuple[Solid, ...]]:
    """Body with appendage, the labelled stumps of the veins, and the veins' unlabelled way into the lung."""
    size = rng.uniform(0.9, 1.12)  # atria enlarge with disease more than hearts do
    body = Ellipsoid(
        _jitter(rng, (0, -4, 0), 1.5),
        _scaled(rng, (20, 13, 15), 0.12, size),
        _jitter(rng, (0, 0, 0), 0.2),
        exponent=rng.uniform(2.1, 3.0),
    )
    vestibule = Ellipsoid(_jitter(rng, (-6, 4, -6), 2), _scaled(rng, (13, 11, 11), 0.15, size))
    root, tip = _jitter(rng, (-13, 2, 5), 1.5), _jitter(rng, (-19, 16, 8), 3)
    appendage = Tube((root, _jitter(rng, (-23, 6, 9), 2.5), tip), (rng.uniform(4.5, 6), rng.uniform(2, 3.5)))

    ostia = [
        ((-13, -6, 7), (-0.85, -0.2, 0.5)),
        ((-13, -8, -5), (-0.85, -0.55, -0.1)),
        ((13, -4, 7), (0.85, 0.1, 0.45)),
        ((13, -8, -5), (0.85, -0.5, -0.2)),
    ]
    if rng.random() < 0.2:
        ostia.append(((14, -6, 1), (0.95, -0.15, 0.1)))  # a right middle vein, a common variant
    veins, continuations = [], []
    for ostium, direction in ostia:
        vein, continuation = _draw_vein(rng, ostium, direction)
        veins.append(vein)
        continuations.append(continuation)
    return (body, vestibule, appendage), tuple(veins), tuple(continuations)


def _draw_vein(rng: np.random.Generator, ostium: Vector, direction: Vector) -> tuple[Tube, Tube]:
    """A vein in two pieces that meet smoothly: readers label about a centimetre of it and cut the rest."""
    start = np.array(_jitter(rng, ostium, 1.5))
    heading = np.array(_jitter(rng, direction, 0.2))
    heading /= np.linalg.norm(heading)
    bent = heading + rng.normal(0, 0.25, size=3)
    bent /= np.linalg.norm(bent)
    stump, rest = rng.uniform(14, 18), rng.uniform(16, 24)
    cut = start + stump / 2 * (heading + bent)
    end = cut + rest / 2 * (bent + bent + rng.normal(0, 0.3, size=3))
    ostium_radius, cut_radius = rng.uniform(3.6, 4.8), rng.uniform(2.8, 3.6)
    vein = Tube(_vectors(start, start + stump / 2 * heading, cut), (ostium_radius, cut_radius))
    return vein, Tube(_vectors(cut, cut + rest / 2 * bent, end), (cut_radius, rng.uniform(0.8, 1.6)))


def _draw_chest(rng: np.random.Generator, muscle: float) -> tuple[Structure, ...]:
    """Body outline, lungs, spine and liver, from the outside inwards."""
    outline = Ellipsoid(
        _jitter(rng, (0, 2, 0), 2), (rng.uniform(49, 56), rng.uniform(42, 47), 150), exponent=rng.uniform(2.6, 3.6)
    )
    lungs = tuple(
        Ellipsoid(
            _jitter(rng, (side * 39, -14, 6), 3), _scaled(rng, (19, 26, 48), 0.12), (0, 0, side * 0.25), exponent=2.6
        )
        for side in (-1, 1)
    )
    spine_x, spine_y = rng.uniform(-1, 7), rng.uniform(-37, -34)
    first, pitch = rng.uniform(-40, -32), rng.uniform(15, 18)
    vertebrae = tuple(
        Ellipsoid((spine_x, spine_y, first + pitch * k), (10.5, 9, pitch * 0.42), exponent=4.0) for k in range(6)
    )
    liver = Ellipsoid(_jitter(rng, (24, 4, -42), 4), _scaled(rng, (30, 32, 18), 0.15))
    fat = muscle * rng.uniform(0.9, 1.9)
    lung = rng.uniform(0.03, 0.12)
    vessels = tuple(_draw_lung_vessel(rng, side) for side in (-1, 1) for _ in range(rng.integers(3, 7)))
    return (
        Structure("fat", (outline,), fat),
        Structure("chest wall", (outline,), muscle, margin=-rng.uniform(2, 5)),
        Structure("lungs", lungs, lung),
        Structure("lung vessels", vessels, muscle * rng.uniform(1.0, 1.8)),
        Structure("liver", (liver,), muscle * rng.uniform(0.9, 1.5)),
        Structure("discs", (_upright(rng, (spine_x, spine_y), 8.0),), muscle * rng.uniform(0.4, 0.8)),
        Structure("cortical bone", vertebrae, lung * 2, margin=1.0),
        Structure("marrow", vertebrae, muscle * rng.uniform(0.5, 1.1), margin=-0.6),
    )


def _draw_heart(rng: np.random.Generator, blood: float, muscle: float) -> tuple[Structure, ...]:
    """The other chambers and the great vessels, each of them nearly as bright as the left atrium."""

    def bright() -> float:
        return blood * rng.uniform(0.94, 1.16)

    left_ventricle = Ellipsoid(
        _jitter(rng, (-21, 20, -13), 2), _scaled(rng, (14, 18, 14), 0.12), _jitter(rng, (0, 0, 0.5), 0.2)
    )
    right_ventricle = Ellipsoid(
        _jitter(rng, (6, 30, -13), 2), _scaled(rng, (20, 12, 16), 0.12), _jitter(rng, (0, 0, 0.2), 0.2), exponent=2.5
    )
    right_atrium = Ellipsoid(_jitter(rng, (23, 9, -7), 2), _scaled(rng, (13, 14, 17), 0.12), exponent=2.4)
    heart = Ellipsoid((-1, 15, -8), _scaled(rng, (38, 30, 31), 0.06), exponent=2.5)

    aorta_radius, pulmonary_radius = rng.uniform(6.5, 9), rng.uniform(5.5, 7)
    root, arch = _jitter(rng, (1, 13, -4), 1.5), _jitter(rng, (6, 16, 38), 3)
    ascending_aorta = Tube((root, _jitter(rng, (7, 19, 12), 2), arch), (aorta_radius, aorta_radius * 0.95))
    trunk, fork = _jitter(rng, (-7, 29, -2), 2), _jitter(rng, (-12, 8, 22), 2)
    pulmonary_trunk = Tube((trunk, _jitter(rng, (-13, 25, 18), 2), fork), (pulmonary_radius * 1.1, pulmonary_radius))
    right_pulmonary_artery = Tube(
        (fork, _jitter(rng, (0, 0, 23), 2), _jitter(rng, (34, -5, 19), 3)), (pulmonary_radius, 3.5)
    )
    superior_vena_cava = Tube(
        (_jitter(rng, (21, 8, 2), 1.5), _jitter(rng, (18, 6, 15), 1.5), _jitter(rng, (17, 6, 38), 2)), (5.5, 4.5)
    )
    descending_aorta = _upright(rng, (rng.uniform(-16, -9), rng.uniform(-28, -24)), rng.uniform(5.5, 7.5))
    oesophagus = _upright(rng, (rng.uniform(-4, 3), rng.uniform(-22, -20)), 2.5)
    vessel_wall = muscle * rng.uniform(0.5, 1.0)
    aortic = bright()
    return (
        Structure("pericardium", (heart,), muscle * rng.uniform(0.6, 1.0)),
        Structure("myocardium", (left_ventricle,), muscle, margin=rng.uniform(4, 6)),
        Structure("left ventricle", (left_ventricle,), bright()),
        Structure("right ventricle", (right_ventricle,), bright()),
        Structure("right atrium", (right_atrium, superior_vena_cava), bright(), blend=3.0),
        Structure("pulmonary wall", (pulmonary_trunk, right_pulmonary_artery), vessel_wall, margin=1.2),
        Structure("pulmonary artery", (pulmonary_trunk, right_pulmonary_artery), bright(), blend=2.0),
        Structure("aortic wall", (ascending_aorta, descending_aorta), vessel_wall, margin=1.2),
        Structure("aorta", (ascending_aorta, descending_aorta), aortic),
        Structure("oesophagus", (oesophagus,), muscle * rng.uniform(0.8, 1.3)),
    )


def _draw_lung_vessel(rng: np.random.Generator, side: int) -> Tube:
    start, end = _jitter(rng, (side * 34, -14, 4), 12), _jitter(rng, (side * 44, -16, 4), 18)
    middle = _jitter(rng, (side * 39, -15, 4), 10)
    return Tube((start, middle, end), (rng.uniform(0.9, 1.8), rng.uniform(0.5, 1.0)))


def _upright(rng: np.random.Generator, position: tuple[float, float], radius: float) -> Tube:
    """A slightly bowed tube that runs through the whole field from below to above."""
    low, middle, high = (_jitter(rng, (*position, z), 1.5) for z in (-45.0, 0.0, 45.0))
    return Tube((low, middle, high), (radius, radius))


def _jitter(rng: np.random.Generator, center: Sequence[float], reach: float) -> Vector:
    x, y, z = (np.asarray(center) + rng.uniform(-reach, reach, size=3)).tolist()
    return x, y, z


def _scaled(rng: np.random.Generator, radii: Vector, reach: float, factor: float = 1.0) -> Vector:
    x, y, z = (np.asarray(radii) * factor * rng.uniform(1 - reach, 1 + reach, size=3)).tolist()
    return x, y, z


def _vectors(*points: NDArray[np.float64]) -> tuple[Vector, Vector, Vector]:
    start, middle, end = ((float(x), float(y), float(z)) for x, y, z in points)
    return start, middle, end
