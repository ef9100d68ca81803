"""Mixed precision, by name."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]


def autocast(device: torch.device | str, precision: Precision) -> torch.autocast:
    """The context in which the network runs: bf16 autocast on CPU and CUDA, or nothing for fp32.

    bf16 has float32's range, so no gradient scaler is needed.
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision {precision!r} must be 'fp32' or 'bf16'")
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16")
