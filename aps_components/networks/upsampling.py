"""How a decoder's learned upsampling begins."""

from __future__ import annotations

import torch
from torch import nn


def start_as_blocks(up: nn.ConvTranspose3d) -> nn.ConvTranspose3d:
    """Let a transposed convolution begin by repeating each cell, as if all voxels of a block were one.

    Drawn independently, the voxels of a block differ by their place in it: a checkerboard, which a short training does
    not undo, and which shows in maps of uncertainty.

    Args:
        up: whose kernel is as large as its stride, so that blocks do not overlap; changed in place.

    Returns:
        The same.

    Reference:
        Aitken et al. 2017 (arXiv:1707.02937): the same start for sub-pixel convolutions.
    """
    with torch.no_grad():
        up.weight.copy_(up.weight[:, :, :1, :1, :1].expand_as(up.weight))
    return up
