"""Instance normalisation that stays fast in ``channels_last_3d`` and bf16 on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aps_components.exporting import compiling, per_item_batch_norm, tracing

_aten = torch.ops.aten


class _PerItemBatchNorm(torch.autograd.Function):
    """Batch norm's kernels on one item after the other, written side by side into one tensor."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        items, channels = features.shape[:2]
        mean, inverse_deviation = weight.new_empty(2, items, channels)
        result = torch.empty_like(features)
        for item in range(items):
            _aten.native_batch_norm.out(
                *(features[item : item + 1], weight, bias, None, None, True, 0.0, eps),
                out=result[item : item + 1],
                save_mean=mean[item],
                save_invstd=inverse_deviation[item],
            )
        ctx.save_for_backward(features, weight, mean, inverse_deviation)
        ctx.eps = eps
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        features, weight, mean, inverse_deviation = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        to_features, to_weight, to_bias = torch.empty_like(features), torch.zeros_like(weight), torch.zeros_like(weight)
        for item in range(len(features)):
            one = slice(item, item + 1)
            per_item = _aten.native_batch_norm_backward(
                *(gradient[one], features[one], weight, None, None, mean[item], inverse_deviation[item]),
                *(True, ctx.eps, [True, True, True]),
            )
            to_features[one] = per_item[0]
            to_weight += per_item[1]
            to_bias += per_item[2]
        return to_features, to_weight, to_bias, None


class InstanceNorm(nn.Module):
    """Instance normalisation with a learned scale and shift (Ulyanov et al. 2016, arXiv:1607.08022).

    The same function as ``torch.nn.InstanceNorm3d(channels, affine=True)``. On a CPU every item goes through the batch
    norm kernel by itself, which unlike ``F.instance_norm`` leaves ``channels_last_3d`` as it is: no conversions between
    it and the convolutions beside it (measured by ``benchmarks/normalisation.py``).

    Shapes:
        [B, channels, D, H, W] -> the same, in ``channels_last_3d`` on a CPU.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Normalise every channel of every item over its voxels."""
        if features.is_cuda or compiling():
            return F.instance_norm(features, weight=self.weight, bias=self.bias, eps=self.eps)
        if tracing():
            return per_item_batch_norm(features, self.weight, self.bias, eps=self.eps)
        features = features.contiguous(memory_format=torch.channels_last_3d)
        return _PerItemBatchNorm.apply(features, self.weight, self.bias, self.eps)
