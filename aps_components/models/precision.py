"""Mixed precision, by name."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Literal, get_args

import torch

Precision = Literal["auto", "bf16", "fp32"]
BF16_GAIN = 1.2  # less than that, and the digits are worth more
PROBES = 6


def autocast(device: torch.device | str, precision: Precision) -> torch.autocast:
    """The context in which the network runs: bf16 autocast on CPU and CUDA, or nothing for fp32.

    bf16 has float32's range, so no gradient scaler is needed.

    Args:
        device: that the network is on.
        precision: ``auto`` is bf16 where the device computes it in hardware, and a CPU faster than fp32; else fp32.

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
    """Whether the hardware computes bf16, and a CPU faster than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() and _bf16_pays()


@lru_cache(maxsize=1)
def _bf16_pays() -> bool:
    """Whether this CPU convolves faster in bf16 than in fp32, measured once in a process; it takes 0.1 s.

    No flag says it: with AMX bf16 is three to five times as fast; with AVX-512 alone it was half as fast on one machine
    (``benchmarks/train_step.py``). A CPU without either must not be asked: oneDNN has no kernels for it there, and
    PyTorch's own convolution is a plain loop, hundreds of times slower.
    """
    return BF16_GAIN * _seconds(torch.bfloat16) < _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    """Of a convolution as in a network's middle levels: the least processor time, which no neighbour lengthens."""
    weight, volume = torch.ones(32, 32, 3, 3, 3, dtype=dtype), torch.ones(2, 32, 24, 24, 24, dtype=dtype)
    taken = []
    with torch.no_grad():
        for _ in range(PROBES):
            start = time.process_time()
            torch.nn.functional.conv3d(volume, weight, padding=1)
            taken.append(time.process_time() - start)
    return min(taken)
