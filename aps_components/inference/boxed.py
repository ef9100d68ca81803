"""What a box holds of its class, and what of a proposal it takes: masks in, masks out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from aps_components.prompts import Box

TOUCHING = np.ones((3, 3, 3))
HARDLY = 0.05  # share of a box below which its class is hardly there
NEAR_SIDE = 0.1  # of a box's length: a class that comes so near to both sides reaches from one to the other
Mask = NDArray[np.bool_]


def sides_of(box: Box) -> tuple[slice, slice, slice]:
    """Both corners inside."""
    d, h, w = (slice(low, high + 1) for low, high in zip(box.least, box.greatest, strict=True))
    return d, h, w


def is_hardly(part: Mask) -> bool:
    """Whether a class is hardly there in the voxels of a box."""
    return bool(part.mean() < HARDLY)


def spans(part: Mask) -> bool:
    """Whether a class reaches, or nearly, from each side of a box [d, h, w] to the opposite one."""
    for axis, length in enumerate(part.shape):
        filled = np.flatnonzero(part.any(axis=tuple(other for other in range(part.ndim) if other != axis)))
        margin = 1 + int(NEAR_SIDE * length)
        if not len(filled) or filled[0] >= margin or filled[-1] < length - margin:
            return False
    return True


def pieces_within(mask: Mask, inside: Mask) -> Mask:
    """The connected pieces of a mask that lie in a region as a whole."""
    pieces, count = ndimage.label(mask, structure=TOUCHING)
    kept = np.ones(count + 1, dtype=bool)
    kept[[0, *np.unique(pieces[~inside]).tolist()]] = False
    return np.asarray(kept[pieces])


def outer_parts(new: Mask, there: Mask) -> Mask:
    """Of what is new the pieces that reach beyond the box around what is there, which is not empty.

    As far as a ball of 5 voxels across fits into them, and what touches it: the rest lies along a border.
    """
    opened = ndimage.binary_opening(new, structure=ndimage.generate_binary_structure(3, 1), iterations=2)
    pieces, count = ndimage.label(opened, structure=TOUCHING)
    beyond = np.ones_like(new)
    beyond[ndimage.find_objects(there.astype(np.uint8))[0]] = False
    kept = np.isin(np.arange(count + 1), np.unique(pieces[beyond & opened]))
    return np.asarray(ndimage.binary_dilation(kept[pieces] & opened, structure=TOUCHING, mask=new))
