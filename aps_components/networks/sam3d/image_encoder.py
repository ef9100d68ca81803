"""A ViT image encoder native to volumes.

The design of SAM's encoder (Kirillov et al. 2023, arXiv:2304.02643; Li et al. 2022, "Exploring Plain Vision
Transformer Backbones for Object Detection", arXiv:2203.16527) with tokens of 8 x 8 x 8 voxels.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from ..convolution import Conv3d
from ._segment_anything import MLPBlock
from .grid import Size3d, embedding_grid
from .layer_norm import LayerNorm3d
from .position_tables import fitting_tables, resize_position_embedding
from .relative_attention import RelativeAttention3d
from .window import balanced_window, window_partition, window_unpartition


class PatchEmbed3d(nn.Module):
    """Tokens of a volume: one per non-overlapping cube of voxels."""

    def __init__(self, in_channels: int, embed_dim: int, *, patch_size: int = 8) -> None:
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


class ImageEncoder3d(nn.Module):
    """Volume to image embedding at 1/8 of its size."""

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
        patch_size: int = 8,
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
            patch_size: voxels along the edge of a token.

        Raises:
            ValueError: a global block's index is not below depth.
        """
        super().__init__()
        if beyond := [index for index in global_blocks if not 0 <= index < depth]:
            raise ValueError(f"global_blocks {beyond} must be below depth {depth}")
        self.patch_size = patch_size
        self.out_channels = out_channels
        self.patch_embed = PatchEmbed3d(in_channels, embed_dim, patch_size=patch_size)
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

    def forward(self, image: Tensor) -> Tensor:
        """Encode a volume.

        Args:
            image: [B, in_channels, D, H, W].

        Returns:
            the image embedding, [B, out_channels, D/8, H/8, W/8].

        Raises:
            ValueError: a size is not divisible by the patch size.
        """
        grid = embedding_grid(image.shape[2:], self.patch_size)
        x = self.patch_embed(image) + resize_position_embedding(self.pos_embed, grid)
        for block in self.blocks:
            x = block(x)
        return self.neck(x.movedim(-1, 1))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Position tables that were learned for a grid of another size fit, interpolated."""
        for name, table in fitting_tables(self, state_dict, prefix=prefix).items():
            state_dict[name] = table
        super()._load_from_state_dict(state_dict, prefix, *args)
