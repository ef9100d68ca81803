"""Dropout of whole channels, whose mask may be handed in."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelDropout(nn.Module):
    """Dropout of whole channels that can also be handed its mask.

    Without a mask it is ``torch.nn.Dropout3d``: active in training, the identity otherwise. With one, the mask
    decides, in training or not, which is how Monte-Carlo dropout uses one thinned network for many volumes.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"dropout probability {probability} must lie in [0, 1)")
        self.probability = probability

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Drop channels of ``features`` [B, F, D, H, W]; ``mask`` [B or 1, F, 1, 1, 1] multiplies them instead."""
        if mask is not None:
            return features * mask.to(features.dtype)
        if not self.training or self.probability == 0:
            return features
        keep = torch.empty(*features.shape[:2], 1, 1, 1, device=features.device, dtype=features.dtype)
        return features * keep.bernoulli_(1 - self.probability).div_(1 - self.probability)
