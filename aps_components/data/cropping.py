"""Patches of a scan: anywhere in it, where somebody labelled it, or around a voxel of a foreground class."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import (
    MapTransform,
    RandCropByLabelClassesd,
    Randomizable,
    RandSpatialCropd,
)

from aps_components.data.partial import NOT_LABELED

INDICES_SUFFIX = "_labeled_indices"
MOST_INDICES = 20_000  # evenly spaced labelled voxels that a patch may lie around; 0.16 MB
MAX_SEED = 2**32


class LabeledToIndicesd(MapTransform):
    """The voxels that have a label, of a label that is not whole, as a list of one; nothing of a whole one.

    Args:
        keys: of labels, [1, D, H, W]; missing ones are skipped.
        indices_postfix: follows a key in that of what is added.
    """

    def __init__(self, keys: KeysCollection = "label", *, indices_postfix: str = INDICES_SUFFIX) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.indices_postfix = indices_postfix

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Find them."""
        d = dict(data)
        for key in self.key_iterator(d):
            labeled = torch.as_tensor(np.asarray(d[key]) != NOT_LABELED).flatten()
            if not labeled.all():
                voxels = labeled.nonzero()[:, 0]
                step = max(1, len(voxels) // MOST_INDICES)
                d[f"{key}{self.indices_postfix}"] = [voxels[::step]]
        return d


class BalancedCropd(Randomizable, MapTransform):
    """Random patches, a share of them around a voxel of a foreground class, drawn evenly among the case's classes.

    A small class is in hardly any patch that may lie anywhere. nnU-Net makes sure in the same way that a third of its
    patches show foreground (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z). At the scan's edge the patch is
    moved inwards until it fits, and the voxel lies off its centre. Cases without a label or without foreground give
    patches from anywhere. All other patches of a label that is not whole lie around a labelled voxel, as in nnU-Net.

    Args:
        keys: to crop, all with the same [D, H, W]; missing ones are skipped.
        roi_size: patch size; along an axis on which a scan is smaller, all of it.
        share: of the patches around a foreground voxel, in [0, 1]; 0 is MONAI's RandSpatialCropd, whatever has a label.
        num_classes: background included.
        label_key: whose classes count.
        indices_key: holds the voxels of each class, as MONAI's ClassesToIndicesd gives them; removed from the item.
        labeled_key: holds those that have a label, see `LabeledToIndicesd`; removed as well.
    """

    def __init__(
        self,
        keys: KeysCollection,
        roi_size: Sequence[int],
        *,
        share: float,
        num_classes: int,
        label_key: str = "label",
        indices_key: str = "label_class_indices",
        labeled_key: str = "label" + INDICES_SUFFIX,
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.share, self.indices_key, self.labeled_key = _share(share), indices_key, labeled_key
        self.anywhere = RandSpatialCropd(keys, roi_size, random_size=False, allow_missing_keys=True)
        self.around_class = RandCropByLabelClassesd(
            keys,
            label_key,
            roi_size,
            ratios=[0, *[1] * (num_classes - 1)],
            num_classes=num_classes,
            indices_key=indices_key,
            allow_missing_keys=True,
            allow_smaller=True,
            warn=False,  # a case need not hold every class
        )
        self.around_labeled = RandCropByLabelClassesd(
            keys,
            label_key,
            roi_size,
            ratios=[1],
            num_classes=1,
            indices_key=labeled_key,
            allow_missing_keys=True,
            allow_smaller=True,
        )

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> "BalancedCropd":
        """Seed the choice between the two crops and each crop on its own, as MONAI's Compose does."""
        if not self.share:
            self.anywhere.set_random_state(seed, state)
            return self
        super().set_random_state(seed, state)
        for crop in (self.anywhere, self.around_class, self.around_labeled):
            crop.set_random_state(seed=self.R.randint(MAX_SEED, dtype="uint32"))
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop."""
        d = dict(data)
        labeled = d.pop(self.labeled_key, [()])
        balanced = self.share > 0 and self.R.random() < self.share
        foreground = d.get(self.indices_key, [])[1:]
        if balanced and any(len(voxels) for voxels in foreground):
            return self.around_class(d)[0]
        d.pop(self.indices_key, None)
        if self.share and len(labeled[0]):
            return self.around_labeled({**d, self.labeled_key: labeled})[0]
        return self.anywhere(d)


def _share(balanced_crops: float) -> float:
    if not 0 <= balanced_crops <= 1:
        raise ValueError(f"balanced_crops {balanced_crops} must lie in [0, 1]: it is a share of the patches")
    return balanced_crops
