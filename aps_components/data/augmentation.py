"""What nnU-Net's augmentations of patches need besides MONAI's transforms, in three dimensions or in the plane.

A bundle's ``train.json`` lists what is drawn, how often and how far.

Reference:
    Isensee et al. 2021, nnU-Net (doi:10.1038/s41592-020-01008-z), supplementary note 4. Where slices are thick it, too,
    moves and blurs patches in their plane only.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import (
    MapTransform,
    Randomizable,
    RandomizableTransform,
)
from torch import Tensor

AUGMENTATIONS = ("strong", "strong_in_plane", "affine", "full", "flips", "none")
IN_PLANE = "strong_in_plane"
STRONG = ("strong", IN_PLANE)
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


def cropped_size(roi_size: Sequence[int], augmentation: str) -> list[int]:
    """Of what is cropped for a patch: larger where it is turned afterwards by much, so that it shows no more mirror
    images than a scan that ends makes it.

    Args:
        roi_size: of the patch, along x, y, z.
        augmentation: one of ``AUGMENTATIONS``.
    """
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation {augmentation!r} must be one of {AUGMENTATIONS}")
    if augmentation not in STRONG:
        return list(roi_size)
    in_plane = augmentation == IN_PLANE
    return [size if in_plane and axis == 2 else size + 2 * round(MARGIN * size) for axis, size in enumerate(roi_size)]
