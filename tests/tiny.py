"""A network that answers in a moment, and volumes for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aps_components.models import TwoModels, build_auto_prompt_seg


def tiny_network(roi_size: Sequence[int], *, num_classes: int, min_probability: float) -> TwoModels:
    """The smallest, with the same random weights each time, in eval mode; a few points a class."""
    torch.manual_seed(0)
    prompts: dict[str, Any] = {"points_per_class": 6, "radius": 4, "min_probability": min_probability}
    network = build_auto_prompt_seg(
        num_classes=num_classes, roi_size=roi_size, filters=4, sam_variant="tiny", prompts=prompts
    )
    return network.eval()


def random_volume(size: Sequence[int], seed: int = 1) -> Tensor:
    """[1, 1, D, H, W], the same each time."""
    return torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(seed))
