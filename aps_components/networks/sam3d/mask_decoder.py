"""From an image embedding and prompts to one mask per class.

After SAM's mask decoder (Kirillov et al. 2023, arXiv:2304.02643): one mask token per class instead of one per
guess at an ambiguous prompt, and fine features of the image encoder added on the way up as in SAM 2 (Ravi et al.
2024, arXiv:2408.00714). Where there are fine features, prompts and the earlier answer come in as maps on their grids,
too: a click acts on the voxels around it, not on a token of 8 voxels alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aps_components.exporting import exporting

from ..convolution import Conv3d
from ._segment_anything import MLP
from .grid import ISOTROPIC_STRIDES, Size3d
from .image_encoder import ImageEmbedding
from .layer_norm import LayerNorm3d

DILATION = 2
FINE_MARGIN = 2  # cells at 1/2 that two convolutions at full size look at, at most
MARGIN = 1 + DILATION + 1 + FINE_MARGIN  # and two convolutions of the corrector, and upsampling
GAIN = 4.0  # what a click adds to the logit of its class before anything is learned
MAPS = 4  # of each class: a person's points, the model's own, boxes, the earlier answer


class PromptMaps(NamedTuple):
    """Prompts on the grid of the image; all [B, C, D, H, W] but for ``far`` and ``reach``."""

    points: Tensor
    """Balls around a person's points and scribbles, in [0, 1]."""
    own: Tensor
    """Balls around the model's own points, as high as they are sure."""
    boxes: Tensor
    """0 or 1."""
    previous: Tensor | None
    """Log probabilities of the earlier answer, which is corrected; None where there is none."""
    far: Tensor
    """Wide balls around a person's points and scribbles at 1/2, [B, C, D/2, H/2, W/2], in [0, 1]."""
    reach: Tensor
    """Where an earlier answer may change, at 1/2, [B, 1, D/2, H/2, W/2], in [0, 1]; see :func:`reach`."""

    def at(self, size: Sequence[int]) -> Tensor:
        """All maps on a coarser grid, [B, MAPS * C, ...]: the highest of points and boxes, the mean of the answer."""
        marks = [highest(each, size) for each in (self.points, self.own, self.boxes)]
        if self.previous is None:
            return torch.cat([*marks, torch.zeros_like(marks[0])], dim=1)
        cell = [extent // coarse for extent, coarse in zip(self.previous.shape[2:], size, strict=True)]
        return torch.cat([*marks, F.avg_pool3d(self.previous.exp(), cell)], dim=1)  # adaptive, ONNX would not know it


class ClassMlps(nn.Module):
    """One MLP per class, with ReLU between layers, all run at once as batched products."""

    def __init__(
        self, num_classes: int, *, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int = 3
    ) -> None:
        super().__init__()
        widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        sizes = list(itertools.pairwise(widths))
        self.weights = nn.ParameterList(_uniform(num_classes, out, n, fan_in=n) for n, out in sizes)
        self.biases = nn.ParameterList(_uniform(num_classes, out, fan_in=n) for n, out in sizes)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, input_dim] -> [B, C, output_dim], class c through MLP c."""
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.einsum("bci,coi->bco", x if index == 0 else x.relu(), weight) + bias
        return x


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


def reach(far: Tensor, boxes: Tensor) -> Tensor:
    """Where a person's prompts may change an earlier answer, at 1/2: [B, 1, ...] in [0, 1], all of it in a box.

    Args:
        far: wide balls around points and scribbles at 1/2, [B, C, D/2, H/2, W/2].
        boxes: 0 or 1, [B, C, D, H, W].
    """
    return torch.maximum((2 * far).clamp(max=1.0), highest(boxes, far.shape[2:])).amax(dim=1, keepdim=True)


def highest(maps: Tensor, size: Sequence[int]) -> Tensor:
    """The highest value within each cell of a coarser grid, whose sizes divide those of the maps.

    Axis by axis over strided views; ``max_pool3d`` takes ten times as long on a CPU.
    """
    for axis, coarse in enumerate(size, start=2):
        factor = maps.shape[axis] // coarse
        views = [maps[(slice(None),) * axis + (slice(first, None, factor),)] for first in range(factor)]
        maps = reduce(torch.maximum, views)
    return maps


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


def _upsampled(logits: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(logits.float(), size=tuple(size), mode="trilinear", align_corners=False)


class MaskDecoder3d(nn.Module):
    """Predicts every class's mask, and how good each is."""

    def __init__(
        self,
        transformer_dim: int,
        transformer: nn.Module,
        *,
        num_classes: int,
        upscaled_channels: tuple[int, int] | None = None,
        fine_path: FinePath | None = None,
        strides: Sequence[Size3d] = ISOTROPIC_STRIDES,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
    ) -> None:
        """Make the decoder.

        Args:
            transformer_dim: channels of the tokens and of the image embedding; a multiple of 8.
            transformer: a two-way transformer of that width.
            num_classes: classes, background included.
            upscaled_channels: of the upscaled tokens at 1/2 and 1/4; an eighth and a quarter of the width, as SAM's,
                where None.
            fine_path: for embeddings with fine features, made for these channels; None for SAM's own.
            strides: of the three halvings from voxels to tokens.
            iou_head_depth: layers of the IoU head.
            iou_head_hidden_dim: hidden width of the IoU head.

        Raises:
            ValueError: transformer_dim is not a multiple of 8.
        """
        super().__init__()
        if transformer_dim % 8:
            raise ValueError(f"transformer_dim {transformer_dim} must be divisible by 8")
        half_dim, quarter_dim = upscaled_channels or (transformer_dim // 8, transformer_dim // 4)
        self.num_classes = num_classes
        self.transformer = transformer
        self.iou_token = nn.Embedding(1, transformer_dim)
        self.mask_tokens = nn.Embedding(num_classes, transformer_dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose3d(transformer_dim, quarter_dim, kernel_size=strides[2], stride=strides[2]),
            LayerNorm3d(quarter_dim),
            nn.GELU(),
            nn.ConvTranspose3d(quarter_dim, half_dim, kernel_size=strides[1], stride=strides[1]),
            nn.GELU(),
        )
        self.fine_path = fine_path
        self.output_hypernetworks_mlps = ClassMlps(
            num_classes, input_dim=transformer_dim, hidden_dim=transformer_dim, output_dim=half_dim
        )
        self.iou_prediction_head = MLP(transformer_dim, iou_head_hidden_dim, num_classes, iou_head_depth)

    def forward(
        self,
        embedding: ImageEmbedding,
        image_pe: Tensor,
        *,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        maps: PromptMaps | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict masks; every item of the batch has its own volume and its own prompts.

        Args:
            embedding: of the image; tokens [B, E, d, h, w].
            image_pe: positional encoding of its cells, [1, E, d, h, w].
            sparse_prompt_embeddings: [B, N, E].
            dense_prompt_embeddings: [B, E, d, h, w].
            maps: of the prompts, if the decoder has a fine path.

        Returns:
            logits [B, C, D, H, W] with a fine path, else [B, C, D/2, H/2, W/2]; and iou_predictions [B, C] in (0, 1).

        Raises:
            ValueError: the embedding has fine features and the decoder no path for them, or the reverse.
        """
        batch, channels, d, h, w = embedding.tokens.shape
        if (embedding.half is None or maps is None) != (self.fine_path is None):
            raise ValueError(
                f"the embedding has fine features: {embedding.half is not None}, maps are given: {maps is not None}, "
                f"the decoder has a path for them: {self.fine_path is not None}; build both alike"
            )
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(batch, -1, -1)
        tokens = torch.cat([tokens, sparse_prompt_embeddings], dim=1)
        tokens, voxels = self.transformer(embedding.tokens + dense_prompt_embeddings, image_pe, tokens)
        at_half = None if maps is None or embedding.half is None else maps.at(embedding.half.shape[2:])
        upscaled = self._upscale(voxels.transpose(1, 2).view(batch, channels, d, h, w), embedding, at_half)
        hyper = self.output_hypernetworks_mlps(tokens[:, 1 : 1 + self.num_classes])  # [B, C, E/8]
        # Channels last, as LayerNorm3d leaves them: the product and its gradient then need no transposed copy.
        logits = (upscaled.movedim(1, -1).flatten(1, 3) @ hyper.mT).mT.unflatten(2, upscaled.shape[2:])
        if self.fine_path is not None and embedding.image is not None and maps is not None and at_half is not None:
            logits = self.fine_path.at_full(upscaled, logits, embedding.image, maps, at_half)
        return logits, self.iou_prediction_head(tokens[:, 0]).sigmoid()

    def _upscale(self, x: Tensor, embedding: ImageEmbedding, maps: Tensor | None) -> Tensor:
        """[B, E, d, h, w] -> [B, E/8, 4d, 4h, 4w]."""
        if self.fine_path is None or embedding.quarter is None or embedding.half is None or maps is None:
            return self.output_upscaling(x)
        to_quarter, norm, activation, to_half, last_activation = self.output_upscaling
        x = self.fine_path.at_quarter(activation(norm(to_quarter(x))), embedding.quarter)
        return self.fine_path.at_half(last_activation(to_half(x)), embedding.half, maps)


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """A parameter drawn as nn.Linear draws its weights and biases."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
