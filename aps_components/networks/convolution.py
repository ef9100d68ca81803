"""A 3-D convolution that may be trained in bf16 on a CPU, however small its grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SMALLEST_BF16_GRID = 3


class Conv3d(nn.Conv3d):
    """``torch.nn.Conv3d`` that leaves bf16 autocast on grids with an axis shorter than three cells.

    There oneDNN 3.12 (torch 2.13) reads memory it never wrote when it computes the gradient of a padded 3x3x3
    convolution's weights in bf16: gradients of 1e35, infinities and NaN (``tests/networks/test_convolution.py``). Such
    grids, the deepest level of a small patch, hold so few cells that float32 costs nothing.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[B, in_channels, D, H, W] -> [B, out_channels, D', H', W']."""
        if input.is_cuda or min(input.shape[2:]) >= SMALLEST_BF16_GRID or not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())
