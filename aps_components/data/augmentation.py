"""nnU-Net's augmentations of patches, in three dimensions or in the plane of thick slices.

Reference:
    Isensee et al. 2021, nnU-Net (doi:10.1038/s41592-020-01008-z), supplementary note 4: what is drawn, how often and
    how far. Where slices are thick it, too, moves and blurs patches in their plane only.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import (
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandGaussianNoised,
    RandGaussianSmooth,
    Randomizable,
    RandomizableTransform,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandSimulateLowResolution,
    Transform,
)
from torch import Tensor

MOVED = 0.5  # share of the patches that are turned and scaled
TURN, TURN_IN_PLANE = np.pi / 6, np.pi
SCALING = (-0.3, 0.4)
SMOOTHED, SIGMA = 0.2, (0.5, 1.0)
COARSENED, COARSEST = 0.25, 0.5
GAMMA = (0.7, 1.5)
MARGIN = 0.2  # of a patch, on both sides: the diagonal of a square is 1.4 times its side
MAX_SEED = 2**32


class OfKeys(Randomizable, MapTransform):
    """A random transform of arrays, applied to entries of an item; each entry is drawn for anew.

    Args:
        keys: of the entries.
        transform: of [C, D, H, W].
    """

    def __init__(self, keys: KeysCollection, transform: RandomizableTransform) -> None:
        super().__init__(keys)
        self.transform = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> OfKeys:
        """Seed the transform."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed=self.R.randint(MAX_SEED, dtype="uint32"))
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform; an image's affine matrix and history stay."""
        d = dict(data)
        for key in self.key_iterator(d):
            changed = self.changed(torch.as_tensor(np.asarray(d[key])))
            d[key] = d[key].clone().copy_(torch.as_tensor(np.asarray(changed)))
        return d

    def changed(self, image: Tensor) -> Tensor:
        """The image [C, D, H, W] after it."""
        return self.transform(image)


class InPlane(OfKeys):
    """:class:`OfKeys` that sees every slice [D, H] by itself, all in the same way: it takes them for channels."""

    def changed(self, image: Tensor) -> Tensor:
        """The image [C, D, H, W] after it."""
        slices = image.movedim(-1, 1)
        return self.transform(slices.flatten(0, 1)).unflatten(0, slices.shape[:2]).movedim(1, -1)


def strong_moves(
    keys: Sequence[str], roi_size: Sequence[int], *, label_key: str, in_plane: bool, any_angle: bool
) -> list[Transform]:
    """Turns and scalings of larger patches, cut down to ``roi_size``; where a scan ends, mirror images go on.

    Args:
        keys: of the image and the label.
        roi_size: of what is left.
        label_key: which of the keys is the label.
        in_plane: turn about z alone, and leave the slices where they are.
        any_angle: turn by up to 180 degrees in the plane, where a half turn mixes no classes up; else by up to 30.
    """
    turn = (0.0, 0.0, TURN_IN_PLANE if any_angle else TURN) if in_plane else (TURN,) * 3
    scaling = (SCALING, SCALING, (0.0, 0.0)) if in_plane else (SCALING,) * 3
    return [
        RandAffined(
            keys,
            spatial_size=roi_size,
            prob=MOVED,
            rotate_range=turn,
            scale_range=scaling,
            mode=["nearest" if key == label_key else "bilinear" for key in keys],
            padding_mode="reflection",
            allow_missing_keys=True,
        )
    ]


def larger_patch(roi_size: Sequence[int], *, in_plane: bool) -> list[int]:
    """What is cropped before :func:`strong_moves`, so that a patch that was turned shows no more mirror images than a
    scan that ends makes it."""
    # The same on both sides, or a patch that is not turned would lie half a voxel off and be blurred.
    return [size if in_plane and axis == 2 else size + 2 * round(MARGIN * size) for axis, size in enumerate(roi_size)]


def strong_shades(key: str, *, in_plane: bool) -> list[Transform]:
    """Noise, blur, brightness, contrast, coarser voxels and gamma, the latter of the negative, too."""
    smooth = RandGaussianSmooth(SIGMA, SIGMA, SIGMA, prob=SMOOTHED)
    coarsen = RandSimulateLowResolution(
        prob=COARSENED, zoom_range=(COARSEST, 1.0), upsample_mode="bilinear" if in_plane else "trilinear"
    )
    return [
        RandGaussianNoised(key, prob=0.1, std=0.3),
        InPlane(key, smooth) if in_plane else OfKeys(key, smooth),
        RandScaleIntensityd(key, factors=0.25, prob=0.15),
        RandScaleIntensityFixedMeand(key, factors=0.25, prob=0.15, preserve_range=True, fixed_mean=True),
        InPlane(key, coarsen) if in_plane else OfKeys(key, coarsen),
        RandAdjustContrastd(key, gamma=GAMMA, prob=0.1, invert_image=True, retain_stats=True),
        RandAdjustContrastd(key, gamma=GAMMA, prob=0.3, retain_stats=True),
    ]
