"""Corrects logits at full size, by fine features of the image and by prompts as maps, around what a person marked.

Fine features on the way up are SAM 2's (Ravi et al. 2024, arXiv:2408.00714).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aps_components.convolution import Conv3d
from aps_components.exporting import exporting

from .grid import Size3d
from .layer_norm import LayerNorm3d
from .prompt_maps import MAPS, PromptMaps

DILATION = 2
FINE_MARGIN = 2  # cells at 1/2 that two convolutions at full size look at, at most
MARGIN = 1 + DILATION + 1 + FINE_MARGIN  # and two convolutions of the corrector, and upsampling
GAIN = 4.0  # what a click adds to the logit of its class before anything is learned


def _convolution(in_channels: int, channels: int, kernel: Size3d, *, dilation: int = 1) -> Conv3d:
    dilations = tuple(dilation if size > 1 else 1 for size in kernel)
    padding = tuple(step * (size // 2) for step, size in zip(dilations, kernel, strict=True))
    return Conv3d(in_channels, channels, kernel_size=kernel, padding=padding, dilation=dilations)  # type: ignore[arg-type]


class FinePath(nn.Module):
    """Takes upscaled tokens, fine features and prompt maps together at 1/2, and corrects the logits at full size.

    Every layer normalises over the channels of a voxel, never over voxels: a click far away changes nothing here.

    Args:
        in_channels: modalities of the volume.
        num_classes: C.
        image_channels: of the fine features at 1/2 and 1/4.
        channels: of the upscaled tokens at 1/2 and 1/4.
        refining_channels: at full size.
        kernel_sizes: of the convolutions at full size, 1/2 and 1/4.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        image_channels: tuple[int, int],
        channels: tuple[int, int],
        refining_channels: int,
        kernel_sizes: Sequence[Size3d],
    ) -> None:
        super().__init__()
        half, quarter = channels
        self.from_quarter = nn.Conv3d(image_channels[1], quarter, kernel_size=1)
        self.from_half = nn.Conv3d(image_channels[0], half, kernel_size=1)
        self.quarter_block = nn.Sequential(
            _convolution(quarter, quarter, kernel_sizes[2]), LayerNorm3d(quarter), nn.ReLU(inplace=True)
        )
        self.from_maps = _convolution(MAPS * num_classes, half, kernel_sizes[1])
        self.half_block = nn.Sequential(
            LayerNorm3d(half),
            nn.ReLU(inplace=True),
            _convolution(half, half, kernel_sizes[1]),
            LayerNorm3d(half),
            nn.ReLU(inplace=True),
            _convolution(half, half, kernel_sizes[1], dilation=DILATION),
        )
        self.refine = Refinement(in_channels, num_classes, refining_channels, kernel_sizes[0])
        self.corrector = nn.Sequential(
            _convolution(half + (MAPS + 2) * num_classes, half, kernel_sizes[1]),
            LayerNorm3d(half),
            nn.ReLU(inplace=True),
            _convolution(half, half, kernel_sizes[1], dilation=DILATION),
            LayerNorm3d(half),
            nn.ReLU(inplace=True),
            nn.Conv3d(half, num_classes, kernel_size=1),
        )
        self.gain = nn.Parameter(torch.tensor(GAIN))
        self.refine_correction = Refinement(in_channels, num_classes, refining_channels, kernel_sizes[0])

    def at_quarter(self, x: Tensor, quarter: Tensor) -> Tensor:
        """Upscaled tokens and features, both at 1/4; shape of ``x`` [B, quarter, ...]."""
        x = x + self.from_quarter(quarter)
        return x + self.quarter_block(x)

    def at_half(self, x: Tensor, half: Tensor, maps: Tensor) -> Tensor:
        """Upscaled tokens, features and prompts, all at 1/2; shape of ``x`` [B, half, ...]."""
        x = x + self.from_half(half) + self.from_maps(maps)
        return x + self.half_block(x)

    def at_full(
        self, x: Tensor, low_res_logits: Tensor, image: Tensor, maps: PromptMaps, maps_at_half: Tensor
    ) -> Tensor:
        """Logits of the image's size, [B, C, D, H, W], float32.

        Without an earlier answer these are the masks, upsampled and refined. An earlier answer is corrected, and only
        within the reach of what a person marked: what nobody asked for stays as it was.

        Args:
            x: features at 1/2.
            low_res_logits: masks at 1/2.
            image: the volume.
            maps: of the prompts.
            maps_at_half: the same on the grid of ``x``.
        """
        if maps.previous is None:
            logits = _upsampled(low_res_logits, image.shape[2:])
            return logits + self.refine(image, logits, maps.points)
        at_half = [x, low_res_logits.detach().float().softmax(dim=1), maps_at_half, maps.far]
        features = torch.cat([each.to(x.dtype) for each in at_half], dim=1)
        if self._may_crop():
            return self._corrected_part(features, image, maps)
        correction, share = (_upsampled(each, image.shape[2:]) for each in (self.corrector(features), maps.reach))
        return maps.previous + self._refined(correction, share, image, maps.previous, maps.points)

    def _corrected_part(self, features: Tensor, image: Tensor, maps: PromptMaps) -> Tensor:
        """The earlier answer, corrected in the reach alone; the same as if all of it were computed."""
        assert maps.previous is not None
        reached, extent = _reached_box(maps.reach), maps.reach.shape[2:]
        if reached is None:
            return maps.previous.float()
        wide, close = (reached.grown(by, extent) for by in (MARGIN, FINE_MARGIN))
        inner = close.within(wide).scaled(image.shape[2:], extent)
        fine = close.scaled(image.shape[2:], extent)
        size = wide.scaled(image.shape[2:], extent).size
        correction = inner.of(_upsampled(self.corrector(wide.of(features)), size))
        share = inner.of(_upsampled(wide.of(maps.reach), size))
        part = self._refined(correction, share, *map(fine.of, (image, maps.previous, maps.points)))
        answer = maps.previous.float().clone()
        fine.of(answer).add_(part)
        return answer

    def _may_crop(self) -> bool:
        """A box that depends on the prompts is none that an export could keep."""
        return not (self.training or exporting())

    def _refined(self, correction: Tensor, share: Tensor, image: Tensor, previous: Tensor, points: Tensor) -> Tensor:
        """What to add to the earlier answer, all at full size; ``share`` of it counts."""
        correction = correction + self.gain * points
        return share * (correction + self.refine_correction(image, previous + correction, points))


class Refinement(nn.Module):
    """A small correction of logits at full size, by the image and the points near by.

    Args:
        in_channels: modalities of the volume.
        num_classes: C.
        channels: inside.
        kernel: of its convolutions.
    """

    def __init__(self, in_channels: int, num_classes: int, channels: int, kernel: Size3d) -> None:
        super().__init__()
        self.from_image = _convolution(in_channels, channels, kernel)
        self.from_answer = nn.Conv3d(2 * num_classes, channels, kernel_size=1)
        self.layers = nn.Sequential(
            nn.ReLU(inplace=True),
            _convolution(channels, channels, kernel),
            nn.ReLU(inplace=True),
            nn.Conv3d(channels, num_classes, kernel_size=1),
        )

    def forward(self, image: Tensor, logits: Tensor, points: Tensor) -> Tensor:
        """What to add to ``logits`` [B, C, D, H, W]; no gradient goes to them this way."""
        answer = torch.cat([logits.detach().softmax(dim=1), points], dim=1)
        return self.layers(self.from_image(image) + self.from_answer(answer)).float()


class _Box(NamedTuple):
    """A part of a grid, along its last three axes."""

    sides: tuple[slice, slice, slice]

    @property
    def size(self) -> Size3d:
        """Its cells along each axis."""
        d, h, w = (side.stop - side.start for side in self.sides)
        return d, h, w

    def of(self, maps: Tensor) -> Tensor:
        """A view of the part, [B, ..., d, h, w]."""
        return maps[(..., *self.sides)]

    def grown(self, by: int, extent: Sequence[int]) -> _Box:
        """With some cells more on every side, as far as the grid goes."""
        d, h, w = (
            slice(max(side.start - by, 0), min(side.stop + by, size))
            for side, size in zip(self.sides, extent, strict=True)
        )
        return _Box((d, h, w))

    def within(self, other: _Box) -> _Box:
        """The same part, counted from the first cell of a larger one."""
        d, h, w = (
            slice(side.start - outer.start, side.stop - outer.start)
            for side, outer in zip(self.sides, other.sides, strict=True)
        )
        return _Box((d, h, w))

    def scaled(self, fine: Sequence[int], coarse: Sequence[int]) -> _Box:
        """The same part of a finer grid, whose sizes are multiples."""
        factors = [size // extent for size, extent in zip(fine, coarse, strict=True)]
        d, h, w = (
            slice(side.start * factor, side.stop * factor) for side, factor in zip(self.sides, factors, strict=True)
        )
        return _Box((d, h, w))


def _reached_box(reached: Tensor) -> _Box | None:
    """The box of the cells from which a correction changes something, those that interpolation reaches included; None
    where there are none.

    Args:
        reached: of :func:`reach`, [B, 1, d, h, w].
    """
    lines = [reached.amax(dim=[axis for axis in range(5) if axis != kept]).nonzero()[:, 0] for kept in (2, 3, 4)]
    if not len(lines[0]):
        return None
    sides = [
        slice(max(int(line[0]) - 1, 0), min(int(line[-1]) + 2, extent))
        for line, extent in zip(lines, reached.shape[2:], strict=True)
    ]
    return _Box((sides[0], sides[1], sides[2]))


def _upsampled(logits: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(logits.float(), size=tuple(size), mode="trilinear", align_corners=False)
