"""Scans whose values a z-score would drown: one voxel of 1e20 leaves all the others at 0."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from aps_components.data.errors import DataError

TAILS = 1e-3  # share of the voxels, at either end, that may be anything
DROWNED = 30.0  # times that these voxels may raise the standard deviation; metal in CT does it by less than 2
SAMPLED = 1 << 20  # voxels that the ends are told from


class RefuseDrownedd(MapTransform):
    """Refuse images without contrast: constant, or of a few voxels so far off that all others become the same.

    Args:
        keys: of the images.
        nonzero: look at voxels other than 0 alone, as the normalisation that follows does.
    """

    def __init__(self, keys: KeysCollection, *, nonzero: bool = False) -> None:
        super().__init__(keys)
        self.nonzero = nonzero

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The data as they are.

        Raises:
            DataError: the file, and what is wrong with its values.
        """
        for key in self.keys:
            image: MetaTensor = data[key]
            file = os.fspath(image.meta.get("filename_or_obj", key))
            channels = [self._counted(channel) for channel in image.numpy()]
            if all(channel.size == 0 or channel.min() == channel.max() for channel in channels):
                value = image.as_tensor().flatten()[0].item()
                raise DataError(f"{file}: it has no contrast, voxels are {value:g} everywhere; export the scan again")
            for number, channel in enumerate(channels):
                if (times := widened(channel)) > DROWNED:
                    where = f"channel {number} of it" if len(channels) > 1 else "it"
                    ends = f"{channel.min():.4g} to {channel.max():.4g}"
                    raise DataError(
                        f"{file}: a few voxels of {where} reach from {ends}, which makes the standard deviation "
                        f"{times:.3g} times that of the others, so that these would look alike; clip the scan's values"
                    )
        return dict(data)

    def _counted(self, channel: NDArray[np.float32]) -> NDArray[np.float32]:
        return channel[channel != 0] if self.nonzero else channel.ravel()


def widened(values: NDArray[np.float32]) -> float:
    """How many times larger the standard deviation is with the voxels at both ends than with these clipped.

    Args:
        values: of one channel, flat.

    Returns:
        At least 1, infinite where all others are the same; 1 for a constant channel.
    """
    if values.size == 0 or values.min() == values.max():
        return 1.0
    low, high = np.quantile(values[:: 1 + values.size // SAMPLED], (TAILS, 1 - TAILS))
    clipped, whole = _deviation(values, low, high), _deviation(values, -np.inf, np.inf)
    return whole / clipped if clipped > 0 else float("inf")


def _deviation(values: NDArray[np.float32], low: float, high: float) -> float:
    """Standard deviation of the clipped values, a part at a time: as float64 a whole scan would take twice its size."""
    total = squares = 0.0
    for start in range(0, values.size, SAMPLED):
        part = np.clip(values[start : start + SAMPLED].astype(np.float64), low, high) - values[0]
        total, squares = total + float(part.sum()), squares + float(np.square(part).sum())
    return float(np.sqrt(max(0.0, squares / values.size - (total / values.size) ** 2)))
