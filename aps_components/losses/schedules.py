"""Weights of losses that change over a training."""

from __future__ import annotations

import math


def sigmoid_rampup(step: int, length: int) -> float:
    """``exp(-5 (1 - t)^2)`` with t = step / length, from 0.0067 up to 1 (Laine & Aila 2017, arXiv:1610.02242, sec. 3).

    Args:
        step: at least 0; 1 is returned from ``length`` on.
        length: 0 for no ramp.
    """
    if length <= 0 or step >= length:
        return 1.0
    return math.exp(-5.0 * (1.0 - max(step, 0) / length) ** 2)
