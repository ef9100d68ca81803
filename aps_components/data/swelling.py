"""Labelled objects that are larger or smaller than those that were labelled, with all that surrounds them.

Whoever labels ten scans of one disease shows a network one size of everything. Here a class of a patch swells or
shrinks, and its surroundings give way: a ventricle that shrinks has a thicker wall. Scaling the whole patch does not
do that.

Reference:
    Kovacs et al. 2023, Anatomy-informed Data Augmentation for Enhanced Prostate Cancer Detection (MICCAI,
    arXiv:2309.03652): an object's smoothed mask has a gradient across its border, along which voxels are moved.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

STEEPEST = 1.3  # shift of a border in units of the breadth over which it fades: from 1.65 on space would fold
ROUNDS = 6  # in which it is found where a voxel comes from
BREADTHS = (0.2, 0.6)  # over which the shift fades, in units of the object's half-width
NARROWEST = 2.0  # voxels: likewise
LEAST_VOXELS = 30  # of an object
AXES = 3


class RandSwelld(RandomizableTransform, MapTransform):
    """Let one class of a labelled patch swell or shrink, or all of them together; patches without a label stay.

    Args:
        keys: of the entries, [M, D, H, W], and of the label map, [1, D, H, W].
        num_classes: with the background.
        prob: of a patch.
        least, most: by how much of its half-width the border of an object moves outward; negative where it shrinks.
        in_plane: nothing moves along the third axis, as where slices are thick.
        label: key of the label map; values beyond the classes belong to no object.

    Raises:
        ValueError: a border that moves by the whole half-width, or bounds in the wrong order.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        num_classes: int,
        prob: float = 0.3,
        least: float = -0.6,
        most: float = 0.4,
        in_plane: bool = False,
        label: str = "label",
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys=True)
        RandomizableTransform.__init__(self, prob)
        if not -1 < least <= most < 1:
            raise ValueError(f"least {least} and most {most} must lie between -1 and 1, the lower first")
        self.num_classes, self.least, self.most, self.label = num_classes, least, most, label
        self.axes = AXES - bool(in_plane)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Draw and move; an image's affine matrix and history stay."""
        d = dict(data)
        self.randomize(None)
        if not self._do_transform or self.label not in d:
            return d
        label_map = np.asarray(d[self.label])[0].astype(np.int64)  # interpolation leaves floats
        there = np.flatnonzero(np.bincount(label_map.reshape(-1), minlength=self.num_classes)[1 : self.num_classes]) + 1
        if not len(there):
            return d
        chosen = self.R.randint(len(there) + (len(there) > 1))
        mask = np.isin(label_map, there if chosen == len(there) else there[chosen])
        shift, breadth = self.R.uniform(self.least, self.most), self.R.uniform(*BREADTHS)
        if (grid := moved_grid(mask, shift=shift, breadth=breadth, axes=self.axes)) is None:
            return d
        for key in self.key_iterator(d):
            moved = _sampled(torch.as_tensor(np.asarray(d[key])), grid, nearest=key == self.label)
            d[key] = d[key].clone().copy_(moved)
        return d


def moved_grid(mask: NDArray[np.bool_], *, shift: float, breadth: float, axes: int = AXES) -> Tensor | None:
    """Where each voxel of a patch in which an object swells comes from; None where the object is too small.

    Args:
        mask: of the object, [D, H, W].
        shift: of its border, outward, in units of its half-width: the largest distance to the border inside it.
        breadth: over which the shift fades, likewise.
        axes: along which voxels move: the first so many.

    Returns:
        [D, H, W, 3], for ``grid_sample`` without aligned corners.
    """
    if np.count_nonzero(mask) < LEAST_VOXELS:
        return None
    steps = [1.0] * axes + [float(max(mask.shape))] * (AXES - axes)  # no border is looked for along other axes
    half_width = float(ndimage.distance_transform_edt(mask, sampling=steps).max())
    fading = max(breadth * half_width, NARROWEST)
    moved = float(np.clip(shift * half_width, -STEEPEST * fading, STEEPEST * fading))
    blurred = ndimage.gaussian_filter(mask.astype(np.float32), [fading] * axes + [0.0] * (AXES - axes), truncate=3)
    inward = torch.from_numpy(np.stack(np.gradient(blurred, axis=tuple(range(axes)))))
    longest = float(inward.norm(dim=0).max())
    places = torch.from_numpy(np.stack(np.meshgrid(*map(np.arange, mask.shape), indexing="ij")).astype(np.float32))
    begun = places.clone()
    for _ in range(ROUNDS if longest > 0 else 0):
        # What lies at y moves by the shift of y, so what comes to x lay at y = x - shift(y).
        places[:axes] = begun[:axes] + moved / longest * _sampled(inward, _for_grid_sample(places))
    return _for_grid_sample(places)


def _for_grid_sample(places: Tensor) -> Tensor:
    """Voxel indices [3, D, H, W] as coordinates from -1 to 1, the last axis first."""
    sizes = torch.tensor(places.shape[1:], dtype=torch.float32).view(-1, 1, 1, 1)
    return ((2 * places + 1) / sizes - 1).movedim(0, -1).flip(-1)


def _sampled(volume: Tensor, grid: Tensor, *, nearest: bool = False) -> Tensor:
    """A volume [C, D, H, W] at the places of a grid."""
    mode = "nearest" if nearest else "bilinear"
    found = F.grid_sample(volume[None].float(), grid[None], mode=mode, padding_mode="border", align_corners=False)
    return found[0].to(volume.dtype)
