"""Labels in which some classes alone were drawn: what is left is "background, or one of the others"."""

from __future__ import annotations

import torch
from torch import Tensor


def merged_logits(logits: Tensor, undrawn: Tensor) -> Tensor:
    """Logits in which the background takes over the probability of the classes that nobody drew.

    Cross entropy and Dice of them are the marginal losses of Shi et al. 2021 (arXiv:2007.03868); Fang & Yan 2020
    (arXiv:2001.00208) merge the target's classes in the same way.

    Args:
        logits: [B, C, D, H, W].
        undrawn: bool, [B, C], False of the background: classes that nobody drew in a case.

    Returns:
        [B, C, D, H, W], in float32; minus infinity for these classes.
    """
    logits = logits.float()
    others = undrawn.clone()
    others[:, 0] = True
    away = logits.masked_fill(~spread(others), -torch.inf)
    background = away.logsumexp(dim=1, keepdim=True)
    return torch.cat([background, logits[:, 1:].masked_fill(spread(undrawn[:, 1:]), -torch.inf)], dim=1)


def spread(of_class: Tensor) -> Tensor:
    """[B, C] to [B, C, 1, 1, 1]."""
    return of_class[:, :, None, None, None]
