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

import torch
from torch import Tensor, nn

from ._segment_anything import MLP
from .fine_path import FinePath
from .grid import ISOTROPIC_STRIDES, Size3d
from .image_encoder import ImageEmbedding
from .layer_norm import LayerNorm3d
from .prompt_maps import PromptMaps


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
