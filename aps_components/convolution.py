"""A 3-D convolution that may be trained on a CPU in bf16 and in fp32, however small its grid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aps_components.exporting import exporting

FEW_CELLS = 96  # of all volumes: for so few, a product of matrices is up to 3 times as fast as a convolution
SMALLEST_BF16_GRID = 3
LARGEST_SLOW_GRID = 20480  # channels x depth x height of one volume: torch, Convolution.cpp, ConvParams::use_mkldnn
_PLAIN: ContextVar[bool] = ContextVar("plain", default=False)


@contextmanager
def plain_convolutions() -> Iterator[None]:
    """Within it small volumes, too, go through torch's own convolution: to the bit as in an export."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


class Conv3d(nn.Conv3d):
    """``torch.nn.Conv3d`` without three traps of small grids on a CPU, the deepest levels of a small patch.

    Few cells: oneDNN's convolution, above all the gradient of its many weights, takes up to three times as long as the
    same sums as one product of matrices (``benchmarks/few_cells.py``). So these are one, each row a cell with its
    surroundings (im2col; Chellapilla et al. 2006, inria-00112631).

    bf16, an axis shorter than three cells: oneDNN 3.12 (torch 2.13) reads memory it never wrote when it computes the
    gradient of a padded 3x3x3 convolution's weights: gradients of 1e35, infinities and NaN
    (``tests/test_convolution.py``). Such grids leave autocast, where they are no product.

    fp32, one small volume: torch then keeps away from oneDNN, and is up to 17 times slower. In inference such a volume
    goes to oneDNN's convolution by name. That has no gradient of its own, so in training the volume goes through as a
    pair. An export keeps the plain convolution, whose last digits may differ (:func:`plain_convolutions`).
    """

    def forward(self, input: Tensor) -> Tensor:
        """[B, in_channels, D, H, W] -> [B, out_channels, D', H', W']."""
        if input.device.type != "cpu":
            return super().forward(input)
        if self._has_few_cells(input):
            return self._as_product(input)
        if not torch.is_autocast_enabled("cpu"):
            return self._in_fp32(input)
        if min(input.shape[2:]) >= SMALLEST_BF16_GRID:
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return self._in_fp32(input.float())

    def _has_few_cells(self, input: Tensor) -> bool:
        """Whether it is to be a product; never in an export, and for no convolution but a plain one."""
        if exporting() or _PLAIN.get() or len(input) * input.shape[2:].numel() > FEW_CELLS:
            return False
        plain = self.groups == 1 and self.padding_mode == "zeros" and not isinstance(self.padding, str)
        return plain and {*self.stride, *self.dilation} == {1} and {*self.kernel_size} != {1}

    def _as_product(self, input: Tensor) -> Tensor:
        """Every cell's surroundings, one after the other, times the weights."""
        depth, height, width = (int(size) for size in self.padding)
        around = F.pad(input, (width, width, height, height, depth, depth))
        for axis, size in enumerate(self.kernel_size, start=2):
            around = around.unfold(axis, size, 1)  # [B, C, D', H', W', kernel ...]
        rows = around.permute(0, 2, 3, 4, 5, 6, 7, 1).flatten(start_dim=4)
        # In channels_last_3d the weights lie in this order already.
        return F.linear(rows, self.weight.permute(0, 2, 3, 4, 1).flatten(start_dim=1), self.bias).movedim(-1, 1)

    def _in_fp32(self, input: Tensor) -> Tensor:
        # Exports first: one that looked at the batch's size would be for that size alone.
        if exporting() or len(input) > 1 or input.shape[1:4].numel() > LARGEST_SLOW_GRID:
            return super().forward(input)
        if torch.is_grad_enabled():
            return super().forward(input.expand(2, -1, -1, -1, -1))[:1]
        if _PLAIN.get() or input.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
            return super().forward(input)
        assert not isinstance(self.padding, str)  # as all networks here are built
        return torch.mkldnn_convolution(
            input, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )
