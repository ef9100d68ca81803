"""What an export needs of a network: whether one is under way, and the loops and conditions that it is to keep.

A trace unrolls Python's loops and keeps one side of its conditions, but calls a scripted function. Each of these is
compiled when it is first traced; nothing else needs the compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor


def tracing() -> bool:
    """Whether ``torch.jit.trace`` follows this pass."""
    return torch.jit.is_tracing()


def compiling() -> bool:
    """Whether ``torch.compile`` or ``torch.export``, and so an export to ONNX, follows this pass."""
    return torch.compiler.is_compiling()


def exporting() -> bool:
    """Whether this pass is followed to be repeated on other values: nothing may depend on those of now."""
    return tracing() or compiling()


def recording(values: Tensor) -> bool:
    """Whether nothing may look at ``values``: this pass is exported, or recorded as a CUDA graph."""
    return exporting() or (values.is_cuda and torch.cuda.is_current_stream_capturing())


def _per_item_batch_norm(features: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    if features.is_cuda:
        return torch.instance_norm(features, weight, bias, None, None, True, 0.0, eps, True)
    parts: list[Tensor] = []
    for item in features.contiguous(memory_format=torch.channels_last_3d).split(1):
        parts.append(torch.batch_norm(item, weight, bias, None, None, True, 0.0, eps, False))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _of_size(image: Tensor, size: list[int]) -> Tensor:
    if image.shape[1:] != size:
        raise ValueError(f"image {image.shape} must be [B, C, D, H, W] with [C, D, H, W] = {size}, as exported")
    return image


@cache
def _script(function: Callable[..., Tensor]) -> Any:
    return torch.jit.script(function)


def per_item_batch_norm(features: Tensor, weight: Tensor, bias: Tensor, *, eps: float) -> Tensor:
    """Instance normalisation by batch norm's kernel on one item after the other, however many there will be.

    Args:
        features: [B, channels, D, H, W].
        weight: [channels].
        bias: [channels].
        eps: added to the variance.
    """
    return _script(_per_item_batch_norm)(features, weight, bias, eps)


def refuse_other_sizes(image: Tensor) -> Tensor:
    """Give ``image`` [B, C, D, H, W] back; a trace will refuse one of other C, D, H or W than this."""
    if not tracing():
        return image
    return _script(_of_size)(image, [int(extent) for extent in image.shape[1:]])
