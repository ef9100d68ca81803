"""Mixed precision, by name."""

from __future__ import annotations

from typing import Literal, get_args

import torch

Precision = Literal["auto", "bf16", "fp32"]


def autocast(device: torch.device | str, precision: Precision) -> torch.autocast:
    """The context in which the network runs: bf16 autocast on CPU and CUDA, or nothing for fp32.

    bf16 has float32's range, so no gradient scaler is needed.

    Args:
        device: that the network is on.
        precision: ``auto`` is bf16 where the device computes it in hardware, else fp32.

    Raises:
        ValueError: another precision.
    """
    device = torch.device(device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=resolved_precision(device, precision) == "bf16")


def resolved_precision(device: torch.device | str, precision: Precision) -> Literal["bf16", "fp32"]:
    """What ``precision`` means on a device.

    Raises:
        ValueError: another precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision {precision!r} must be 'auto', 'bf16' or 'fp32'")
    if precision == "auto":
        return "bf16" if _computes_bf16(torch.device(device)) else "fp32"
    return precision


def _computes_bf16(device: torch.device) -> bool:
    """Whether the hardware does. A CPU that does not is hundreds of times slower in bf16 than in fp32: oneDNN has no
    kernels for it there, and PyTorch's own convolution is a plain loop (``benchmarks/train_step.py``)."""
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
