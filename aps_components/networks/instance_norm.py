"""Instance normalisation that stays fast in ``channels_last_3d`` and bf16 on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class InstanceNorm(nn.Module):
    """Instance normalisation with a learned scale and shift (Ulyanov et al. 2016, arXiv:1607.08022).

    The same function as ``torch.nn.InstanceNorm3d(channels, affine=True)``. On a CPU every item goes through the
    batch norm kernel by itself, which unlike ``F.instance_norm`` leaves ``channels_last_3d`` as it is: no
    conversions between it and the convolutions beside it (measured by ``benchmarks/normalisation.py``).

    Shapes:
        [B, channels, D, H, W] -> the same.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Normalise every channel of every item over its voxels."""
        if features.is_cuda or torch.jit.is_tracing() or torch.jit.is_scripting():
            return F.instance_norm(features, weight=self.weight, bias=self.bias, eps=self.eps)
        items = [
            F.batch_norm(item, None, None, self.weight, self.bias, training=True, eps=self.eps)
            for item in features.split(1)
        ]
        return items[0] if len(items) == 1 else torch.cat(items)
