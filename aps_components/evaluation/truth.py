"""The truth of a scan as far as a person drew it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps_components.data import DataError, LoadVolumed
from aps_components.data.datalist import Item
from aps_components.data.partial import NOT_LABELED, UNDRAWN, is_partial, label_item
from aps_components.evaluation.metrics import Mask, Region

LabelMap = NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Truth:
    """A label map [D, H, W] in which voxels may be without a label, and classes not drawn."""

    label_map: LabelMap
    """``NOT_LABELED`` where nobody labelled."""
    affine: NDArray[np.floating]
    spacing: list[float]
    undrawn: tuple[int, ...] = ()
    """Classes that a voxel of the background may have, too."""

    @classmethod
    def load(cls, item: Mapping[str, Any], load: LoadVolumed) -> Truth:
        """Of an item of a datalist."""
        loaded = load(label_item(item))
        label = loaded["label"]
        return cls(
            label_map=np.asarray(label[0]),
            affine=np.asarray(label.affine),
            spacing=[float(size) for size in label.pixdim],
            undrawn=undrawn_of(loaded),
        )

    @property
    def labeled(self) -> Mask:
        """Where somebody labelled."""
        return self.label_map != NOT_LABELED

    @property
    def certain(self) -> Mask:
        """Where the true class is known, whichever it is; nowhere if some were not drawn."""
        return np.zeros_like(self.labeled) if self.undrawn else self.labeled

    @property
    def covers_scan(self) -> bool:
        """Whether every voxel has a label."""
        return bool(self.labeled.all())

    @property
    def is_whole(self) -> bool:
        """Whether every voxel has its class."""
        return self.covers_scan and not self.undrawn

    def tells(self, region: Region) -> bool:
        """Whether all of a region's classes were drawn."""
        return not set(region.classes) & set(self.undrawn)

    def completed(self, answer: LabelMap) -> LabelMap:
        """The truth, and where it leaves the class open the answer's, unless that is known to be none of it."""
        possible = ~self.labeled | ((self.label_map == 0) & np.isin(answer, self.undrawn))
        return np.where(possible, answer, self.label_map).astype(self.label_map.dtype)


def whole_labels(items: Sequence[Item], load: LoadVolumed) -> list[Item]:
    """The items whose labels are whole, for figures that need all of a scan.

    Raises:
        DataError: there is none.
    """
    found = [item for item in items if not is_partial(item) or Truth.load(item, load).is_whole]
    if not found:
        raise DataError(
            f"{items[0]['label']}: no label of these scans is whole, and this is measured on whole ones alone; label "
            "some scans to the end, or choose another --split"
        )
    return found


def undrawn_of(loaded: Mapping[Any, Any]) -> tuple[int, ...]:
    """Of a loaded item: the classes that nobody drew."""
    return tuple(loaded[UNDRAWN].nonzero()[:, 0].tolist()) if UNDRAWN in loaded else ()
