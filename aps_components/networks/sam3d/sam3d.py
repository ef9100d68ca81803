"""A Segment Anything model native to volumes: one mask per class, from an image and prompts.

After Kirillov et al. 2023, "Segment Anything", arXiv:2304.02643. The image is encoded once; every further prompt costs
a decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .grid import Size3d, embedding_grid
from .image_encoder import ImageEmbedding, ImageEncoder3d
from .mask_decoder import MaskDecoder3d
from .prompt_encoder import PromptEncoder3d
from .prompt_maps import PromptMaps, Prompts, box_maps, point_maps, reach
from .sam_weights import InflationReport

BALL = 4.0  # radius of a point's ball, voxels, along an axis that is halved three times; nnInteractive's
REACH = 2.0  # tokens: as far as a click may change an earlier answer, half of it with full weight
LEAST_LOG_PROBABILITY = -3.0  # of an earlier answer: a correction has to be able to overcome it


class Sam3dOutput(NamedTuple):
    """What one decoding gives."""

    logits: Tensor
    """[B, C, D, H, W], float32."""
    iou_predictions: Tensor
    """[B, C] in (0, 1), the model's opinion of its own masks."""


class Sam3d(nn.Module):
    """Image encoder, prompt encoder and mask decoder, injected."""

    def __init__(
        self,
        image_encoder: ImageEncoder3d,
        prompt_encoder: PromptEncoder3d,
        mask_decoder: MaskDecoder3d,
    ) -> None:
        """Put the parts together.

        Raises:
            ValueError: the image encoder's stride or width is not the prompt encoder's.
        """
        super().__init__()
        if image_encoder.patch_size != prompt_encoder.stride:
            raise ValueError(f"patch_size {image_encoder.patch_size} must be {prompt_encoder.stride}")
        if image_encoder.out_channels != prompt_encoder.embed_dim:
            raise ValueError(f"out_channels {image_encoder.out_channels} must be {prompt_encoder.embed_dim}")
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.num_classes = mask_decoder.num_classes
        self.stride: Size3d = image_encoder.patch_size
        self.mask_stride: Size3d = prompt_encoder.mask_stride
        self.ball = tuple(max(BALL * step / 8, 0.5) for step in self.stride)
        self.inflation_report: InflationReport | None = None

    @property
    def relative_spacing(self) -> tuple[float, float, float]:
        """Size of a voxel along each axis in units of the finest, as the tokens tell: an axis that is halved less often
        has coarser voxels."""
        d, h, w = (max(self.stride) / step for step in self.stride)
        return d, h, w

    def encode(self, image: Tensor) -> ImageEmbedding:
        """The image embedding of [B, in_channels, D, H, W].

        Raises:
            ValueError: a size is not divisible by the stride.
        """
        return self.image_encoder(image)

    def decode(
        self,
        embedding: ImageEmbedding,
        *,
        image_size: Sequence[int],
        prompts: Prompts | None = None,
        mask_inputs: Tensor | None = None,
        asked: Prompts | None = None,
    ) -> Sam3dOutput:
        """Predict masks from an image embedding and any prompts, or none.

        Args:
            embedding: from `encode`, or made from it.
            image_size: (D, H, W) of the volume, voxels.
            prompts: points, boxes and scribbles.
            mask_inputs: logits of an earlier answer, [B, C, D, H, W], which is corrected where the prompts are.
            asked: those of the prompts around which it may change; all by default.

        Raises:
            ValueError: image_size is not divisible by the stride or is not the embedding's, mask_inputs are not of
                that size, or a prompt does not fit (see PromptEncoder3d).
        """
        size = (int(image_size[0]), int(image_size[1]), int(image_size[2]))
        grid = embedding_grid(size, self.stride)
        if tuple(embedding.tokens.shape[2:]) != grid:
            raise ValueError(f"embedding {tuple(embedding.tokens.shape[2:])} must be {grid} for {size}")
        if mask_inputs is not None and tuple(mask_inputs.shape[1:]) != (self.num_classes, *size):
            raise ValueError(
                f"mask_inputs {tuple(mask_inputs.shape[1:])} must be {(self.num_classes, *size)}: C, D, H, W"
            )
        batch = embedding.tokens.shape[0]
        given = Prompts.none(batch, device=embedding.tokens.device) if prompts is None else prompts
        previous = None if mask_inputs is None else _log_probabilities(mask_inputs)
        points = given.tokens
        sparse, dense = self.prompt_encoder(
            image_size=size,
            points=points if points[1].shape[1] else None,
            boxes=(given.boxes, given.box_labels) if given.boxes is not None and given.box_labels is not None else None,
            mask_inputs=None if previous is None else F.avg_pool3d(previous, self.mask_stride),
            batch_size=batch,
        )
        logits, iou_predictions = self.mask_decoder(
            embedding,
            self.prompt_encoder.get_dense_pe(grid),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            maps=None if self.mask_decoder.fine_path is None else self.maps(given, previous, size=size, asked=asked),
        )
        if tuple(logits.shape[2:]) != size:
            logits = F.interpolate(logits.float(), size=size, mode="trilinear", align_corners=False)
        return Sam3dOutput(logits.float(), iou_predictions.float())

    def maps(
        self, prompts: Prompts, previous: Tensor | None, *, size: Size3d, asked: Prompts | None = None
    ) -> PromptMaps:
        """The prompts on the grid of the image.

        Args:
            prompts: of B volumes.
            previous: log probabilities of the earlier answer, [B, C, D, H, W].
            size: (D, H, W), voxels.
            asked: those around which an earlier answer may change; all by default.
        """
        coords, labels = prompts.marks
        balls = partial(point_maps, num_classes=self.num_classes, size=size, radius=self.ball)
        points = balls(coords, labels)
        own = balls(prompts.own_coords, prompts.own_labels, prompts.own_weights)
        far, boxes = self.far(coords, labels, size=size), self._boxes(prompts, like=points)
        if asked is None:
            reached = reach(far, boxes)
        else:
            reached = reach(self.far(*asked.marks, size=size), self._boxes(asked, like=points))
        return PromptMaps(points, own, boxes, previous, far, reached)

    def _boxes(self, prompts: Prompts, *, like: Tensor) -> Tensor:
        if prompts.boxes is None or prompts.box_labels is None:
            return torch.zeros_like(like)
        return box_maps(prompts.boxes, prompts.box_labels, num_classes=self.num_classes, size=like.shape[2:])

    def far(self, coords: Tensor, labels: Tensor, *, size: Sequence[int]) -> Tensor:
        """Wide balls around points at 1/2: as far as a click may change an earlier answer.

        Args:
            coords: [B, N, 3], voxel indices.
            labels: [B, N], -1 pads.
            size: (D, H, W), voxels.

        Returns:
            [B, C, D/2, H/2, W/2] in [0, 1].
        """
        step = torch.from_numpy(np.array(self.mask_stride)).type_as(coords)  # names no device: a trace would keep it
        return point_maps(
            torch.div(coords, step, rounding_mode="floor"),
            labels,
            num_classes=self.num_classes,
            size=[extent // stride for extent, stride in zip(size, self.mask_stride, strict=True)],
            radius=[
                max(REACH * token / stride, 1.0) for token, stride in zip(self.stride, self.mask_stride, strict=True)
            ],
        )

    def forward(
        self,
        image: Tensor,
        *,
        prompts: Prompts | None = None,
        mask_inputs: Tensor | None = None,
    ) -> Tensor:
        """Encode and decode; [B, in_channels, D, H, W] -> logits [B, C, D, H, W]. The prompts are `decode`'s."""
        embedding = self.encode(image)
        return self.decode(embedding, image_size=image.shape[2:], prompts=prompts, mask_inputs=mask_inputs).logits


def _log_probabilities(logits: Tensor) -> Tensor:
    """Of an earlier answer, without gradient; no class is ruled out."""
    return logits.detach().float().log_softmax(dim=1).clamp(min=LEAST_LOG_PROBABILITY)
