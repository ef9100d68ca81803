"""From the network's grid back to a scan's own, a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, InvertibleTransform
from monai.transforms.utils import allow_missing_keys_mode
from monai.utils import TraceKeys
from torch import Tensor
from torch.nn import functional as F

from aps_components.data.resampling import AxisMap, LinearResample, axis_maps, best_order, interpolated
from aps_components.data.transforms import Resampled
from aps_components.inference.tiles import Window, blocks_of

Bring = Callable[[Tensor], Tensor]  # one of the maps to the scan's grid, float32

IMAGE = "image"


class Maps(Protocol):
    """Maps [C, D, H, W] that are looked at part by part."""

    channels: int
    size: tuple[int, ...]

    def region(self, region: Window, channels: slice = ...) -> Tensor:
        """A part, [C, d, h, w]."""
        ...

    @property
    def blocks(self) -> Iterator[Window]:
        """Parts that together are the whole."""
        ...


class WholeMaps:
    """A tensor [C, D, H, W] as maps.

    Args:
        maps: the tensor.
    """

    def __init__(self, maps: Tensor) -> None:
        self.maps = maps.as_tensor() if isinstance(maps, MetaTensor) else maps
        self.channels, self.size = len(maps), tuple(maps.shape[1:])

    def region(self, region: Window, channels: slice = slice(None)) -> Tensor:
        """A part, [C, d, h, w]."""
        return self.maps[(channels, *region)]

    @property
    def blocks(self) -> Iterator[Window]:
        """As those of tiles."""
        return blocks_of(_window([slice(0, size) for size in self.size]))


class OwnGrid:
    """What an image went through, undone for maps of it.

    Args:
        preprocessing: of this project: loading, orientation, resampling, intensities.
        image: after it.
    """

    def __init__(self, preprocessing: InvertibleTransform, image: MetaTensor) -> None:
        self.preprocessing, self.image = preprocessing, image
        self.operations = list(image.applied_operations)
        self.size, self.affine = tuple(int(size) for size in image.shape[1:]), image.affine
        self.transform, self.network_size = np.eye(4), self.size
        if self.operations and self.operations[-1][TraceKeys.CLASS_NAME] == LinearResample.__name__:
            done: dict[str, Any] = self.operations.pop()
            self.size = tuple(int(size) for size in done[TraceKeys.ORIG_SIZE])
            self.affine = torch.as_tensor(done[TraceKeys.EXTRA_INFO]["src_affine"])
            self.transform = np.linalg.solve(np.asarray(image.affine), np.asarray(self.affine))
        self.axes = axis_maps(self.transform, old=self.network_size, new=self.size)

    def label_map(self, maps: Maps) -> Tensor:
        """The likeliest class of each voxel, [1, D, H, W], uint8, on the scan's own grid.

        Probabilities are interpolated, as on the whole grid, and of equally likely classes the first counts. Where one
        class is likelier everywhere in a block than another one anywhere in it, the other one is not looked at.
        """
        labels: Tensor | None = None
        for there, classes, _ in self._likeliest(maps):
            labels = self._whole(classes) if labels is None else labels
            labels[there] = classes
        assert labels is not None  # no volume is empty
        return self._turned(labels[None])

    def label_map_and_confidence(self, maps: Maps) -> tuple[Tensor, Tensor]:
        """:meth:`label_map`, and the probability of each voxel's likeliest class, [1, D, H, W], float32."""
        labels: Tensor | None = None
        confidence: Tensor | None = None
        for there, classes, best in self._likeliest(maps):
            labels = self._whole(classes) if labels is None else labels
            confidence = self._whole(best) if confidence is None else confidence
            labels[there], confidence[there] = classes, best
        assert labels is not None
        assert confidence is not None
        return self._turned(labels[None]), self._turned(confidence[None])

    def channel(self, maps: Maps, index: int) -> Tensor:
        """One of the maps, [1, D, H, W], float32, on the scan's own grid."""
        whole: Tensor | None = None
        for region, there, bring in self._blocks(maps):
            part = bring(maps.region(region, slice(index, index + 1))[0])
            whole = self._whole(part) if whole is None else whole
            whole[there] = part
        assert whole is not None
        return self._turned(whole[None])

    def _likeliest(self, maps: Maps) -> Iterator[tuple[Window, Tensor, Tensor]]:
        """Of each part of the scan: where it is, its voxels' likeliest classes and these classes' probabilities."""
        for region, there, bring in self._blocks(maps):
            yield (there, *_likeliest(maps.region(region), bring))

    def _whole(self, part: Tensor) -> Tensor:
        """Room for the scan, of a part's kind."""
        return part.new_zeros(self.size)

    def _blocks(self, maps: Maps) -> Iterator[tuple[Window, Window, Bring]]:
        """Parts of the maps, the voxels of the scan that lie there, and how a map is brought to these."""
        return self._turned_blocks() if self.axes is None else self._straight_blocks(maps, self.axes)

    def _straight_blocks(self, maps: Maps, axes: Sequence[AxisMap]) -> Iterator[tuple[Window, Window, Bring]]:
        """Those of the maps, with a voxel more at the end."""
        order = best_order(axes, self.network_size)
        for block in maps.blocks:
            sides, there, parts = [], [], []
            for side, axis, size in zip(block, axes, self.network_size, strict=True):
                first, last = (int(torch.searchsorted(axis.below, edge)) for edge in (side.start, side.stop))
                sides.append(slice(side.start, min(side.stop + 1, size)))
                there.append(slice(first, last))
                parts.append(axis.part(first, last).shifted(side.start))
            if all(side.start < side.stop for side in there):
                yield _window(sides), _window(there), partial(_along_axes, parts=parts, order=order)

    def _turned_blocks(self) -> Iterator[tuple[Window, Window, Bring]]:
        """Of the scan's grid, whose axes are not quite those of the network's."""
        for there in blocks_of(_window([slice(0, size) for size in self.size])):
            indices = [torch.arange(side.start, side.stop, dtype=torch.float64) for side in there]
            places = torch.stack(torch.meshgrid(*indices, indexing="ij"), dim=-1)
            places = places @ torch.as_tensor(self.transform[:3, :3].T) + torch.as_tensor(self.transform[:3, 3])
            places = torch.minimum(places.clamp_min(0), torch.tensor(self.network_size, dtype=torch.float64) - 1)
            low = places.flatten(0, 2).amin(dim=0).floor()
            high = places.flatten(0, 2).amax(dim=0).ceil()
            grid = 2 * (places - low) / (high - low).clamp_min(1) - 1
            region = [slice(int(a), int(b) + 1) for a, b in zip(low, high, strict=True)]
            yield _window(region), there, partial(_at_places, grid=grid.flip(-1))

    def _turned(self, volume: Tensor) -> Tensor:
        """Back to the axes of the scan's file."""
        meta = {**deepcopy(self.image.meta), "affine": self.affine.clone()}
        result = MetaTensor(volume, meta=meta, applied_operations=deepcopy(self.operations))
        data: dict[Any, Any] = {IMAGE: result}
        steps = self.preprocessing.transforms if isinstance(self.preprocessing, Compose) else [self.preprocessing]
        with allow_missing_keys_mode(self.preprocessing):
            for step in reversed(steps):
                if isinstance(step, InvertibleTransform) and not isinstance(step, Resampled):
                    data = step.inverse(data)
        return data[IMAGE]


def _likeliest(probabilities: Tensor, bring: Bring) -> tuple[Tensor, Tensor]:
    """[C, D, H, W] to classes on another grid, uint8, and how likely they are, float32, [d, h, w] each."""
    flat = probabilities.flatten(1)
    least, most = flat.amin(dim=1), flat.amax(dim=1)
    classes = (most >= least.max()).nonzero()[:, 0].tolist()
    best = bring(probabilities[classes[0]])
    labels = torch.full_like(best, classes[0], dtype=torch.uint8)
    for index in classes[1:]:
        found = bring(probabilities[index])
        labels.masked_fill_(found > best, index)
        torch.maximum(best, found, out=best)
    return labels, best


def _along_axes(block: Tensor, *, parts: Sequence[AxisMap], order: Sequence[int]) -> Tensor:
    size = [len(part.below) for part in parts]
    if all(part.is_identity for part in parts):
        return block[: size[0], : size[1], : size[2]].clone()
    here = [AxisMap(*(each.to(block.device) for each in part)) for part in parts]
    return interpolated(block.double(), here, order).float()


def _at_places(block: Tensor, *, grid: Tensor) -> Tensor:
    found = F.grid_sample(
        block.double()[None, None],
        grid.to(block.device)[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
    return found[0, 0].float()


def _window(sides: Sequence[slice]) -> Window:
    return sides[0], sides[1], sides[2]
