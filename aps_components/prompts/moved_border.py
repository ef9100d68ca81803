"""What a click says by geometry alone: here the border of its class lies further out.

Who corrects a segmentation clicks in the middle of an error, that is, as far from the present border as from the true
one. So the border has to move by about twice the click's distance to it, most at the click and less beside it. That
much is known before a network looks at the image; Model B corrects what comes of it.

Simulated clicks lie in the middle of an error in RITM, too (Sofiiuk et al. 2022, arXiv:2102.06583). A user's mark that
moves a level set, most near the mark, is older than such networks (Cremers et al. 2007, "A probabilistic level set
formulation for interactive organ segmentation", SPIE Medical Imaging). What it gives: ``docs/results/clicks.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from aps_components.prompts.simulated import Click

DEEPEST = 4.0  # voxels: a click further from its class may belong to another piece of it, of which it says no more
PASSED = 1.35  # of the click's distance: short of twice, as too far is worse than not far enough
NARROWEST = 2.0  # voxels
BROADENED = 0.75  # by so many voxels for each of the click's distance
BREADTHS = 3.0  # of the bump, beyond which it is nothing


class MovedBorder(NamedTuple):
    """Where a click moves the border of its class to."""

    box: tuple[slice, slice, slice]
    """The part of the volume that ``inside`` is of."""
    inside: NDArray[np.bool_]
    """What becomes the click's class, what has it already included."""


def moved_border(answer: NDArray[np.integer], click: Click, *, spacing: Sequence[float] = (1, 1, 1)) -> MovedBorder:
    """The region of a click's class when its border moves past the click.

    With d the click's distance to its class, at most :data:`DEEPEST`: within a Gaussian bump of height 1.35 d and width
    2 + 0.75 d around the click everything belongs to the class that is no further from it than the bump is high, and so
    does a ball of radius d.

    Args:
        answer: classes, [D, H, W].
        click: inside the volume.
        spacing: size of a voxel along each axis, in units of the finest.
    """
    reach = BREADTHS * (NARROWEST + BROADENED * DEEPEST)
    sides = [
        slice(max(index - math.ceil(reach / step), 0), index + math.ceil(reach / step) + 1)
        for index, step in zip(click.voxel, spacing, strict=True)
    ]
    box = (sides[0], sides[1], sides[2])
    own = answer[box] == click.label
    centre = [index - side.start for index, side in zip(click.voxel, box, strict=True)]
    steps = [
        (np.arange(extent) - middle) * step for extent, middle, step in zip(own.shape, centre, spacing, strict=True)
    ]
    away = np.sqrt(steps[0][:, None, None] ** 2 + steps[1][None, :, None] ** 2 + steps[2][None, None, :] ** 2)
    depth = DEEPEST
    inside = np.zeros_like(own)
    if own.any():
        distance = ndimage.distance_transform_edt(~own, sampling=spacing)
        depth = min(float(distance[tuple(centre)]), DEEPEST)
        inside = distance <= PASSED * depth * np.exp(-0.5 * (away / (NARROWEST + BROADENED * depth)) ** 2)
    return MovedBorder(box, np.asarray(own | inside | (away <= max(depth - 0.5, 0.5))))
