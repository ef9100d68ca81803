"""Points, boxes and masks as tokens, in three dimensions and with a class each.

After SAM's prompt encoder (Kirillov et al. 2023, arXiv:2304.02643), whose prompts are only positive or
negative; here every class has an embedding of its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aps_components.exporting import recording

from .grid import ISOTROPIC_STRIDES, Size3d, embedding_grid, product
from .layer_norm import LayerNorm3d
from .position_encoding import RandomFourierEncoding3d

Points = tuple[Tensor, Tensor]
Boxes = tuple[Tensor, Tensor]


class PromptEncoder3d(nn.Module):
    """Encodes prompts for the mask decoder."""

    def __init__(
        self,
        *,
        embed_dim: int,
        num_classes: int,
        mask_channels: int = 16,
        strides: Sequence[Size3d] = ISOTROPIC_STRIDES,
    ) -> None:
        """Make the encoder.

        Args:
            embed_dim: channels of a token; even.
            num_classes: classes, background included.
            mask_channels: hidden channels on the way from mask_inputs to embed_dim.
            strides: of the three halvings from voxels to tokens; mask_inputs come after the first.

        Raises:
            ValueError: embed_dim is odd.
        """
        super().__init__()
        if embed_dim % 2:
            raise ValueError(f"embed_dim {embed_dim} must be even: half sines, half cosines")
        self.embed_dim = embed_dim
        self.num_classes = num_classes
        self.stride = product(strides)
        self.mask_stride = strides[0]
        self.pe_layer = RandomFourierEncoding3d(embed_dim // 2)
        self.class_embeddings = nn.Embedding(num_classes, embed_dim)
        self.corner_embeddings = nn.Embedding(2, embed_dim)  # least and greatest corner of a box
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.no_mask_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv3d(num_classes, mask_channels // 4, kernel_size=strides[1], stride=strides[1]),
            LayerNorm3d(mask_channels // 4),
            nn.GELU(),
            nn.Conv3d(mask_channels // 4, mask_channels, kernel_size=strides[2], stride=strides[2]),
            LayerNorm3d(mask_channels),
            nn.GELU(),
            nn.Conv3d(mask_channels, embed_dim, kernel_size=1),
        )

    def forward(
        self,
        *,
        image_size: Size3d,
        points: Points | None = None,
        boxes: Boxes | None = None,
        mask_inputs: Tensor | None = None,
        batch_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode any of the three kinds of prompts, or none.

        Args:
            image_size: (D, H, W) of the volume, voxels.
            points: point_coords [B, N, 3], voxel indices in (d, h, w) order, and point_labels [B, N], class
                ids; -1 pads. Pads stay in attention as one learned token, as in SAM.
            boxes: corners [B, M, 2, 3], voxel indices, the least corner first, and box_labels [B, M]; -1 pads.
            mask_inputs: logits of an earlier prediction, [B, C, D/2, H/2, W/2].
            batch_size: B; needed only where no prompt tells it.

        Returns:
            sparse_prompt_embeddings [B, N + 2M, E] and dense_prompt_embeddings [B, E, D/8, H/8, W/8].

        Raises:
            ValueError: a label is no class, image_size is not divisible by the stride, mask_inputs are not at half
                size, or the batch sizes differ.
        """
        grid = embedding_grid(image_size, self.stride)
        batch = _common_batch_size(points=points, boxes=boxes, mask_inputs=mask_inputs, given=batch_size)
        sparse = [self.no_mask_embed.weight.new_zeros(batch, 0, self.embed_dim)]
        if points is not None:
            sparse.append(self._embed_points(*points, image_size=image_size))
        if boxes is not None:
            sparse.append(self._embed_boxes(*boxes, image_size=image_size))
        if mask_inputs is None:
            dense = self.no_mask_embed.weight.view(1, -1, 1, 1, 1).expand(batch, -1, *grid)
        else:
            dense = self._embed_masks(mask_inputs, image_size=image_size)
        return torch.cat(sparse, dim=1), dense

    def get_dense_pe(self, grid: Size3d) -> Tensor:
        """Positional encoding of every embedding cell, on the axes of the points'; [1, E, d, h, w]."""
        return self.pe_layer(grid).unsqueeze(0)

    def _embed_points(self, coords: Tensor, labels: Tensor, *, image_size: Size3d) -> Tensor:
        """[..., 3] coordinates and [...] labels -> [..., E]; every pad is `not_a_point_embed` alone."""
        self._check_labels(labels)
        positions = self.pe_layer.forward_with_coords(coords + 0.5, image_size)  # to the voxel's centre
        embeddings = positions + self.class_embeddings(labels.clamp(min=0))
        return torch.where(labels[..., None] < 0, self.not_a_point_embed.weight[0], embeddings)

    def _embed_boxes(self, corners: Tensor, labels: Tensor, *, image_size: Size3d) -> Tensor:
        """[B, M, 2, 3] corners and [B, M] labels -> [B, 2M, E]."""
        labels = labels[..., None].expand(*labels.shape, 2)
        embeddings = self._embed_points(corners, labels, image_size=image_size)
        of_corner = embeddings + self.corner_embeddings.weight  # [B, M, 2, E]
        return torch.where(labels[..., None] < 0, embeddings, of_corner).flatten(1, 2)

    def _embed_masks(self, mask_inputs: Tensor, *, image_size: Size3d) -> Tensor:
        """[B, C, D/2, H/2, W/2] -> [B, E, D/8, H/8, W/8]."""
        halved = (extent // step for extent, step in zip(image_size, self.mask_stride, strict=True))
        expected = (self.num_classes, *halved)
        if mask_inputs.shape[1:] != expected:
            raise ValueError(f"mask_inputs {tuple(mask_inputs.shape[1:])} must be {expected}: C, D/2, H/2, W/2")
        return self.mask_downscaling(mask_inputs)

    def _check_labels(self, labels: Tensor) -> None:
        """Raise where a label is neither a class nor -1; an export or a recording takes what it is given."""
        if recording(labels):
            return
        strange = labels[(labels < -1) | (labels >= self.num_classes)]
        if strange.numel():
            raise ValueError(f"prompt label {int(strange[0])} must be -1 or below {self.num_classes} classes")


def _common_batch_size(
    *, points: Points | None, boxes: Boxes | None, mask_inputs: Tensor | None, given: int | None
) -> int:
    """The one batch size of all prompts; 1 if nothing tells it."""
    tensors = [*(points or ()), *(boxes or ()), *([] if mask_inputs is None else [mask_inputs])]
    sizes = [tensor.shape[0] for tensor in tensors] + ([] if given is None else [given])
    if any(size != sizes[0] for size in sizes):
        raise ValueError(f"batch sizes of the prompts differ: {sorted(set(sizes))}")
    return sizes[0] if sizes else 1
