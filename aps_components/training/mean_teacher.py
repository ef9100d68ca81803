"""The mean teacher: an exponential moving average of the student."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from aps_components.models import TwoModels


class MeanTeacher(AveragedModel):
    """EMA of a student's parameters (Tarvainen & Valpola 2017, arXiv:1703.01780); its buffers are copied.

    The decay of update n = 1, 2, ... is ``min(decay, 1 - 1 / n)``: at first a plain mean of the students so far, which
    forgets the random start. ``teacher.module`` is the averaged model, always in eval mode and without gradients.

    Args:
        student: copied at once.
        decay: 0.99 suits a few thousand iterations.
    """

    module: TwoModels

    def __init__(self, student: nn.Module, *, decay: float = 0.99) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay {decay} must lie in [0, 1)")

        @torch.no_grad()
        def average(averaged: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
            # The student was copied at construction, so this is update number `updates` + 1.
            weight = 1.0 - min(decay, 1.0 - 1.0 / (int(updates) + 1))
            torch._foreach_lerp_(list(averaged), list(current), weight)

        super().__init__(student, multi_avg_fn=average)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> MeanTeacher:
        """A teacher never trains: it stays in eval mode whatever is asked."""
        return super().train(False)
