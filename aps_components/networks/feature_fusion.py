"""CAFA, channel alignment and fusion: the two models' features joined voxel by voxel, according to agreement."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aps_components.convolution import Conv3d
from aps_components.networks.instance_norm import InstanceNorm


class ChannelAlignmentFusion(nn.Module):
    """Gated fusion of two feature maps at the same resolution (AutoPromptSeg's CAFA).

    Both are projected to a common width by a 1x1x1 convolution. The sigmoid of their cosine similarity at each voxel
    is a gate ``g``; ``concat(g * a, (1 - g) * b)`` goes through a 3x3x3 convolution, normalisation and ReLU. The
    similarity lies in [-1, 1], so g in [0.27, 0.73]: neither side is ever shut out.

    Args:
        a_channels: channels of Model A's features.
        b_channels: channels of Model B's, and of the result.
        width: the common width.

    Shapes:
        a [B, a_channels, d, h, w], b [B, b_channels, d, h, w] -> [B, b_channels, d, h, w].
    """

    def __init__(self, a_channels: int, b_channels: int, *, width: int = 128) -> None:
        super().__init__()
        self.project_a = nn.Conv3d(a_channels, width, kernel_size=1)
        self.project_b = nn.Conv3d(b_channels, width, kernel_size=1)
        self.fuse = nn.Sequential(
            Conv3d(2 * width, b_channels, kernel_size=3, padding=1), InstanceNorm(b_channels), nn.ReLU(inplace=True)
        )

    def gate(self, a: Tensor, b: Tensor) -> Tensor:
        """Sigmoid of the cosine similarity of two projected maps [B, width, d, h, w] -> [B, 1, d, h, w]."""
        return F.cosine_similarity(a.float(), b.float(), dim=1).unsqueeze(1).sigmoid()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Fuse A's features with B's."""
        a, b = self.project_a(a), self.project_b(b)
        gate = self.gate(a, b).to(a.dtype)
        return self.fuse(torch.cat([gate * a, (1 - gate) * b], dim=1))


class ConcatenationFusion(ChannelAlignmentFusion):
    """CAFA with its gate held at one half: what the gate is worth is the difference to this."""

    def gate(self, a: Tensor, b: Tensor) -> Tensor:
        """One half everywhere, [B, 1, d, h, w]."""
        return torch.full_like(a[:, :1], 0.5)


FusionKind = Literal["none", "concatenation", "cafa"]


def build_fusion(kind: FusionKind, *, a_channels: int, b_channels: int, width: int = 128) -> nn.Module | None:
    """The fusion of that name; ``none`` leaves Model B's features alone and gives None."""
    if kind == "none":
        return None
    kinds = {"cafa": ChannelAlignmentFusion, "concatenation": ConcatenationFusion}
    if kind not in kinds:
        raise ValueError(f"fusion {kind!r} must be one of {sorted([*kinds, 'none'])}")
    return kinds[kind](a_channels, b_channels, width=width)
