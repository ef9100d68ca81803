"""A ViT image encoder native to volumes, with fine features of its own.

The design of SAM's encoder (Kirillov et al. 2023, arXiv:2304.02643; Li et al. 2022, "Exploring Plain Vision
Transformer Backbones for Object Detection", arXiv:2203.16527) with tokens of 8 x 8 x 8 voxels, or of 8 x 8 x 1 where
slices are thick. A small convolutional stem beside it gives features at 1/2 and 1/4, as SAM 2 takes them from its own
encoder (Ravi et al. 2024, arXiv:2408.00714), and helps the tokens (Xiao et al. 2021, arXiv:2106.14881).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from aps_components.convolution import Conv3d

from ..instance_norm import InstanceNorm
from ._segment_anything import MLPBlock
from .grid import ISOTROPIC_KERNELS, ISOTROPIC_STRIDES, Size3d, embedding_grid, product
from .layer_norm import LayerNorm3d
from .position_tables import fitting_tables, resize_position_embedding
from .relative_attention import RelativeAttention3d
from .window import balanced_window, window_partition, window_unpartition


class ImageEmbedding(NamedTuple):
    """What the encoder sees in a volume; 1/8, 1/4, 1/2 stand for the strides that the model was built with."""

    tokens: Tensor
    """[B, E, D/8, H/8, W/8]."""
    quarter: Tensor | None = None
    """[B, F4, D/4, H/4, W/4]; None without a stem."""
    half: Tensor | None = None
    """[B, F2, D/2, H/2, W/2]; None without a stem."""
    image: Tensor | None = None
    """The volume itself, [B, in_channels, D, H, W]; None without a stem."""

    def of(self, rows: Tensor) -> ImageEmbedding:
        """That of some of the volumes, [R] of B."""
        return ImageEmbedding(self.tokens[rows], *(None if part is None else part[rows] for part in self[1:]))


class PatchEmbed3d(nn.Module):
    """Tokens of a volume: one per non-overlapping block of voxels."""

    def __init__(self, in_channels: int, embed_dim: int, *, patch_size: Size3d = (8, 8, 8)) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, D, H, W] -> [B, d, h, w, embed_dim]."""
        return self.proj(x).movedim(1, -1)


class Block3d(nn.Module):
    """A pre-norm transformer block, attending within windows or everywhere."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        reference_grid: Size3d,
        window_size: int = 0,
        global_key_stride: int = 1,
        mlp_ratio: float = 4.0,
    ) -> None:
        """Make the block.

        Args:
            dim: channels of a token.
            num_heads: heads.
            reference_grid: the grid (d, h, w) that relative positions are made for.
            window_size: most tokens along a window's axis; 0 attends everywhere.
            global_key_stride: edge of the cubes of tokens merged into one key, where attending everywhere.
            mlp_ratio: hidden over outer width of the MLP.
        """
        super().__init__()
        self.window_size = window_size
        grid = balanced_window(reference_grid, window_size) if window_size else reference_grid
        key_stride = 1 if window_size else global_key_stride
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = RelativeAttention3d(dim, num_heads=num_heads, grid=grid, key_stride=key_stride)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLPBlock(embedding_dim=dim, mlp_dim=int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """[B, d, h, w, C] -> the same."""
        x = x + self._attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor) -> Tensor:
        if not self.window_size:
            return self.attn(x)
        grid = (x.shape[1], x.shape[2], x.shape[3])
        windows = window_partition(x, balanced_window(grid, self.window_size))
        return window_unpartition(self.attn(windows), grid)


def _stem_level(in_channels: int, channels: int, *, stride: Size3d, kernel: Size3d) -> nn.Sequential:
    """Two convolutions, the first of which halves the axes of ``stride``."""
    d, h, w = (3 if step > 1 else size for step, size in zip(stride, kernel, strict=True))
    down = (d, h, w)
    return nn.Sequential(
        Conv3d(in_channels, channels, kernel_size=down, stride=stride, padding=_same(down)),
        InstanceNorm(channels),
        nn.ReLU(inplace=True),
        Conv3d(channels, channels, kernel_size=kernel, padding=_same(kernel)),
        InstanceNorm(channels),
        nn.ReLU(inplace=True),
    )


def _same(kernel: Size3d) -> Size3d:
    return kernel[0] // 2, kernel[1] // 2, kernel[2] // 2


class ConvStem(nn.Module):
    """Features of a volume at 1/2 and 1/4, and what they add to its tokens.

    Args:
        in_channels: modalities of the volume.
        embed_dim: channels of a token.
        channels: at 1/2 and at 1/4.
        strides: of the three halvings.
        kernel_sizes: of the convolutions at full size, 1/2 and 1/4.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dim: int,
        *,
        channels: tuple[int, int],
        strides: Sequence[Size3d],
        kernel_sizes: Sequence[Size3d],
    ) -> None:
        super().__init__()
        half, quarter = channels
        self.to_half = _stem_level(in_channels, half, stride=strides[0], kernel=kernel_sizes[1])
        self.to_quarter = _stem_level(half, quarter, stride=strides[1], kernel=kernel_sizes[2])
        self.to_tokens = nn.Conv3d(quarter, embed_dim, kernel_size=strides[2], stride=strides[2])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at 1/2, at 1/4, and [B, d, h, w, embed_dim] for the tokens."""
        half = self.to_half(image)
        quarter = self.to_quarter(half)
        return half, quarter, self.to_tokens(quarter).movedim(1, -1)


class ImageEncoder3d(nn.Module):
    """Volume to image embedding at 1/8 of its size, with features at 1/4 and 1/2 beside it."""

    def __init__(
        self,
        *,
        in_channels: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        out_channels: int,
        reference_grid: Size3d,
        window_size: int,
        global_blocks: Collection[int],
        global_key_stride: int = 1,
        mlp_ratio: float = 4.0,
        stem_channels: tuple[int, int] | None = None,
        strides: Sequence[Size3d] = ISOTROPIC_STRIDES,
        kernel_sizes: Sequence[Size3d] = ISOTROPIC_KERNELS,
    ) -> None:
        """Make the encoder.

        Args:
            in_channels: modalities of the volume.
            embed_dim: channels of a token.
            depth: transformer blocks.
            num_heads: heads of each block.
            out_channels: channels of the image embedding.
            reference_grid: (d, h, w) that the position tables are made for; others are interpolated.
            window_size: most tokens along a window's axis.
            global_blocks: indices of the blocks that attend everywhere instead of within windows.
            global_key_stride: edge of the cubes of tokens that these merge into one key; 1 merges none.
            mlp_ratio: hidden over outer width of the MLPs.
            stem_channels: of the fine features at 1/2 and 1/4; None for an encoder of tokens alone, as SAM's.
            strides: of the three halvings from voxels to tokens.
            kernel_sizes: of the stem's convolutions at full size, 1/2 and 1/4.

        Raises:
            ValueError: a global block's index is not below depth.
        """
        super().__init__()
        if beyond := [index for index in global_blocks if not 0 <= index < depth]:
            raise ValueError(f"global_blocks {beyond} must be below depth {depth}")
        self.patch_size = product(strides)
        self.out_channels = out_channels
        self.patch_embed = PatchEmbed3d(in_channels, embed_dim, patch_size=self.patch_size)
        self.stem: ConvStem | None = None
        if stem_channels is not None:
            self.stem = ConvStem(
                in_channels, embed_dim, channels=stem_channels, strides=strides, kernel_sizes=kernel_sizes
            )
        self.pos_embed = nn.Parameter(torch.zeros(1, *reference_grid, embed_dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.ModuleList(
            Block3d(
                embed_dim,
                num_heads=num_heads,
                reference_grid=reference_grid,
                window_size=0 if index in global_blocks else window_size,
                global_key_stride=global_key_stride,
                mlp_ratio=mlp_ratio,
            )
            for index in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv3d(embed_dim, out_channels, kernel_size=1, bias=False),
            LayerNorm3d(out_channels),
            Conv3d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            LayerNorm3d(out_channels),
        )

    def forward(self, image: Tensor) -> ImageEmbedding:
        """Encode a volume.

        Args:
            image: [B, in_channels, D, H, W].

        Raises:
            ValueError: a size is not divisible by the patch size.
        """
        grid = embedding_grid(image.shape[2:], self.patch_size)
        x = self.patch_embed(image) + resize_position_embedding(self.pos_embed, grid)
        half = quarter = None
        if self.stem is not None:
            half, quarter, of_stem = self.stem(image)
            x = x + of_stem
        for block in self.blocks:
            x = block(x)
        tokens = self.neck(x.movedim(-1, 1))
        return ImageEmbedding(tokens, quarter, half, image if self.stem is not None else None)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Position tables that were learned for a grid of another size fit, interpolated."""
        for name, table in fitting_tables(self, state_dict, prefix=prefix).items():
            state_dict[name] = table
        super()._load_from_state_dict(state_dict, prefix, *args)
