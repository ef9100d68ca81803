"""From the parameters of a phantom to its image and label, at any size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from aps_components.data.phantoms.anatomy import PhantomParameters
from aps_components.data.phantoms.solids import Volume, column, rotation

REFERENCE_FIELD = (90.0, 80.0, 60.0)  # mm


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
    check_grid(shape, spacing)
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


def check_grid(shape: Sequence[int], spacing: Sequence[float]) -> None:
    """Raise a ValueError where shape or spacing is none of a volume."""
    if len(shape) != 3 or min(shape) < 2:
        raise ValueError(f"shape must be three sizes of at least 2 voxels, got {tuple(shape)}")
    if len(spacing) != 3 or min(spacing) <= 0:
        raise ValueError(f"spacing must be three positive lengths in mm, got {tuple(spacing)}")


def _anatomical_points(parameters: PhantomParameters, shape: Sequence[int], spacing: Sequence[float]) -> Volume:
    """Where each voxel's centre lies in the anatomy, reference mm: [3, D, H, W]."""
    axes = [(np.arange(size) - (size - 1) / 2) * step for size, step in zip(shape, spacing, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    points /= np.float32(_field_zoom(shape, spacing))
    inverse = rotation(parameters.rotation).T.astype(np.float32) / np.float32(parameters.scale)
    return np.tensordot(inverse, points - column(parameters.translation), axes=1)


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
