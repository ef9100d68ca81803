"""Phantom cardiac MR scans: a left atrium among neighbours of the same brightness.

`draw_phantom` draws every random number and `render_phantom` draws none (as in TorchIO, Perez-Garcia et al.
2021, arXiv:2003.04696), so a scan can be rendered again at any size from its parameters.

Anatomy is laid out in millimetres of a reference field of view of 90 x 80 x 60 mm around its centre, the first
axis towards the patient's right, the second forwards and the third upwards (RAS+). Every other field of view
scales it as a whole, so that the atrium's share of the voxels does not depend on the field of view.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

REFERENCE_FIELD = (90.0, 80.0, 60.0)  # mm
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
        axes = (_rotation(self.angles) / np.array(self.radii)).T.astype(np.float32)  # row i / radius i
        local = np.tensordot(axes, points - _column(self.center), axes=1)
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
            offset, along = points - _column(start), end - start
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


def render_phantom(
    parameters: PhantomParameters, *, shape: Sequence[int], spacing: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Render one phantom.

    Args:
        parameters: as drawn by `draw_phantom`.
        shape: (D, H, W), voxels.
        spacing: of the voxels along D, H and W, mm.

    Returns:
        image [D, H, W] in scanner units and label [D, H, W], 1 in the left atrium.
    """
    _check_grid(shape, spacing)
    zoom = _field_zoom(shape, spacing) * parameters.scale
    points = _anatomical_points(parameters, shape, spacing)
    edge = float(np.mean(spacing)) / zoom  # width over which a voxel is shared by two tissues, reference mm

    image = np.zeros(shape, dtype=np.float32)
    for structure in parameters.structures:
        _paint(image, structure.distance(points), structure.intensity, edge=edge)
    atrium = parameters.atrium.distance(points)
    _paint(image, atrium - np.float32(parameters.wall_thickness), parameters.wall_intensity, edge=edge)
    _paint(image, atrium, parameters.atrium.intensity, edge=edge)
    return _acquire(image, parameters), (atrium < 0).astype(np.uint8)


def write_phantoms(
    out_dir: str | os.PathLike[str],
    *,
    labeled: int,
    unlabeled: int,
    validation: int,
    test: int,
    shape: Sequence[int] = (72, 64, 48),
    spacing: Sequence[float] = (1.25, 1.25, 1.25),
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Write phantoms as NIfTI files with a MONAI datalist.

    Case i depends on `seed` and i only: asking for more cases, or for other parts, leaves its scan as it was.
    Cases in "unlabeled" get no label file.

    Returns:
        The path of datalist.json, whose own paths are relative to `out_dir`.
    """
    sizes = {"training": labeled, "unlabeled": unlabeled, "validation": validation, "test": test}
    for part, size in sizes.items():
        if size < 0:
            raise ValueError(f"number of {part} cases must not be negative, got {size}")
    _check_grid(shape, spacing)
    folder = Path(out_dir)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)

    parts = [part for part, size in sizes.items() for _ in range(size)]
    cases: dict[str, list[dict[str, str]]] = {part: [] for part in sizes}
    for index, part in enumerate(tqdm(parts, desc="phantoms", unit="scan", disable=not progress)):
        parameters = draw_phantom(np.random.default_rng([seed, index]))
        image, label = render_phantom(parameters, shape=shape, spacing=spacing)
        case = {"image": f"images/phantom_{index:03d}.nii.gz", "label": f"labels/phantom_{index:03d}.nii.gz"}
        if part == "unlabeled":
            (folder / case.pop("label")).unlink(missing_ok=True)  # left by an earlier run with other sizes
        else:
            _save(folder / case["label"], label, spacing)
        _save(folder / case["image"], image.round().astype(np.int16), spacing)
        cases[part].append(case)

    datalist = {"name": "phantoms", "labels": {"0": "background", "1": "left atrium"}, **cases}
    path = folder / "datalist.json"
    path.write_text(json.dumps(datalist, indent=2) + "\n", encoding="utf-8")
    return path


# --- drawing ---------------------------------------------------------------------------------------------------


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


# --- rendering -------------------------------------------------------------------------------------------------


def _anatomical_points(parameters: PhantomParameters, shape: Sequence[int], spacing: Sequence[float]) -> Volume:
    """Where each voxel's centre lies in the anatomy, reference mm: [3, D, H, W]."""
    axes = [(np.arange(size) - (size - 1) / 2) * step for size, step in zip(shape, spacing, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    points /= np.float32(_field_zoom(shape, spacing))
    inverse = _rotation(parameters.rotation).T.astype(np.float32) / np.float32(parameters.scale)
    return np.tensordot(inverse, points - _column(parameters.translation), axes=1)


def _field_zoom(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Size of the anatomy in this field of view over its size in the reference field."""
    volume = math.prod(size * step for size, step in zip(shape, spacing, strict=True))
    return (volume / math.prod(REFERENCE_FIELD)) ** (1 / 3)


def _paint(image: Volume, distance: Volume, intensity: float, *, edge: float) -> None:
    """Lay one tissue over the image in place; voxels on its surface are mixtures."""
    share = np.clip(0.5 - distance / np.float32(edge), 0, 1)
    image += share * (np.float32(intensity) - image)


def _acquire(image: Volume, parameters: PhantomParameters) -> Volume:
    """What the scanner makes of the true brightness: texture, blur, coil shading, Rician noise, gain."""
    rng = np.random.default_rng(parameters.noise_seed)
    texture = gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), sigma=2)
    texture *= np.float32(parameters.texture) / texture.std()
    image = gaussian_filter(image * (1 + texture), sigma=parameters.blur) * _bias_field(parameters.bias, image.shape)
    real, imaginary = np.float32(parameters.noise) * rng.standard_normal((2, *image.shape), dtype=np.float32)
    return np.float32(parameters.gain) * np.hypot(image + real, imaginary)


def _bias_field(coefficients: Sequence[float], shape: Sequence[int]) -> Volume:
    """Smooth multiplicative shading with mean log 0, from the 9 terms of a quadratic of the position in [-1, 1]."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in shape), indexing="ij", sparse=True)
    terms = (x, y, z, x * y, x * z, y * z, x * x, y * y, z * z)
    log_field = np.zeros(tuple(shape), dtype=np.float32)
    for coefficient, term in zip(coefficients, terms, strict=True):
        log_field += np.float32(coefficient) * (term - term.mean())
    return np.exp(log_field)


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


def _rotation(angles: Vector) -> NDArray[np.float64]:
    """Rotation about the third, then the second, then the first axis."""
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    about_first = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_second = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    about_third = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return about_first @ about_second @ about_third


def _column(vector: Sequence[float] | Volume) -> Volume:
    return np.asarray(vector, dtype=np.float32)[:, None, None, None]


def _check_grid(shape: Sequence[int], spacing: Sequence[float]) -> None:
    if len(shape) != 3 or min(shape) < 2:
        raise ValueError(f"shape must be three sizes of at least 2 voxels, got {tuple(shape)}")
    if len(spacing) != 3 or min(spacing) <= 0:
        raise ValueError(f"spacing must be three positive lengths in mm, got {tuple(spacing)}")


def _save(path: Path, volume: NDArray[np.int16] | NDArray[np.uint8], spacing: Sequence[float]) -> None:
    nib.save(nib.Nifti1Image(volume, np.diag([*spacing, 1.0])), path)
