"""Bidirectional copy-paste: a box cut out of one patch and pasted into another, both ways.

Bai et al. 2023, Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation (arXiv:2305.00673), eq. 1-3.
Drawing the box is separate from pasting it, so that image, label and "whose label is it" are mixed alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_box_mask(size: Sequence[int], *, share: float = 2 / 3, generator: torch.Generator | None = None) -> Tensor:
    """A box at a random place that fits.

    Args:
        size: (D, H, W).
        share: of each axis that the box covers, in (0, 1); 2/3 in the paper.
        generator: where to draw from; torch's global one by default.
    Returns:
        bool, [1, 1, D, H, W], True in the box.
    """
    if not 0 < share < 1:
        raise ValueError(f"share {share} of the copy-paste box must lie in (0, 1)")
    mask = torch.zeros(1, 1, *size, dtype=torch.bool)
    window = mask
    for axis, length in enumerate(size, start=2):
        extent = max(1, round(share * length))
        start = int(torch.randint(length - extent + 1, (1,), generator=generator))
        window = window.narrow(axis, start, extent)
    window.fill_(True)
    return mask


def paste(inside: Tensor, outside: Tensor, mask: Tensor) -> Tensor:
    """``inside`` where the mask is True, ``outside`` elsewhere; all broadcast to [B, F, D, H, W]."""
    return torch.where(mask, inside, outside)
