"""Boxes that a scan is cropped to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Box = tuple[slice, ...]

CELL = 2.5  # mm: what the rule of `body_box` looks at
MARGIN = 10.0  # mm, around the body
SMALLEST_SHARE = 0.1  # of the volume; a smaller box is a failure, not a body
BINS = 256
PUBLISHED_PATCH = 112  # voxels
PUBLISHED_MARGIN = (10, 20)  # voxels, the second excluded


def body_box(image: NDArray[np.generic], spacing: Sequence[float]) -> Box:
    """The box around the body, found in the image alone: the air around it is left out.

    The image is averaged over cells of about 2.5 mm, smoothed and capped at its 99th percentile. The threshold lies
    halfway between the mean of the darker side of Otsu's threshold (Otsu 1979) and that threshold itself, on the safe
    side of it, so that tissue far from the coils still counts. The box encloses the largest component above it, with a
    margin of 10 mm. Where there is no such thing, or it fills less than a tenth of the volume, the whole image stays.
    """
    whole = tuple(slice(0, size) for size in image.shape)
    steps = [max(1, min(round(CELL / step), size)) for step, size in zip(spacing, image.shape, strict=True)]
    cells = ndimage.gaussian_filter(_averaged(image, steps), sigma=1, mode="nearest")
    cells = np.minimum(cells, np.percentile(cells, 99))
    if not cells.min() < cells.max():
        return whole
    otsu = _otsu(cells)
    threshold = (cells[cells <= otsu].mean() + otsu) / 2
    components, count = ndimage.label(cells > threshold)
    if not count:
        return whole
    largest = int(np.bincount(components.ravel())[1:].argmax())
    found = ndimage.find_objects(components)[largest]
    box = tuple(
        slice(max(part.start * step - pad, 0), min(part.stop * step + pad, size) if part.stop < cell_count else size)
        for part, step, pad, size, cell_count in zip(
            found, steps, [round(MARGIN / step) for step in spacing], image.shape, cells.shape, strict=True
        )
    )
    share = np.prod([part.stop - part.start for part in box]) / image.size
    return box if share >= SMALLEST_SHARE else whole


def published_box(mask: NDArray[np.generic], name: str) -> Box:
    """The box of the field's preprocessed scans (Yu et al. 2019): around the true mask in the first two axes.

    At least 112 voxels and then 10 to 19 more on each side, drawn per case; here they come from the SHA-256 of the
    case's name, so that they stay the same. The third axis stays whole.
    """
    draws = hashlib.sha256(name.encode()).digest()
    box = []
    for axis in (0, 1):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        first, last = int(filled[0]), int(filled[-1])
        pad = max(PUBLISHED_PATCH - (last - first), 0) // 2
        low, high = (
            PUBLISHED_MARGIN[0] + draws[2 * axis + side] % (PUBLISHED_MARGIN[1] - PUBLISHED_MARGIN[0])
            for side in (0, 1)
        )
        box.append(slice(max(first - pad - low, 0), min(last + 1 + pad + high, mask.shape[axis])))
    return (*box, slice(0, mask.shape[2]))


def cropped_affine(affine: NDArray[np.float64], box: Box) -> NDArray[np.float64]:
    """The affine of the voxels inside the box."""
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    return moved


def _averaged(image: NDArray[np.generic], steps: Sequence[int]) -> NDArray[np.float32]:
    """Mean over cells; what does not fill a last cell is left to the cell before it."""
    sizes = [size // step for size, step in zip(image.shape, steps, strict=True)]
    inside = image[tuple(slice(0, size * step) for size, step in zip(sizes, steps, strict=True))]
    split = [number for pair in zip(sizes, steps, strict=True) for number in pair]
    return inside.reshape(split).mean(axis=(1, 3, 5), dtype=np.float32)


def _otsu(values: NDArray[np.float32]) -> float:
    """The threshold that separates a histogram's two sides best (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts), counts.sum()
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = (sums[-1] * below - sums * total) ** 2 / (below * (total - below))
    return float(edges[1 + np.nan_to_num(apart[:-1]).argmax()])
