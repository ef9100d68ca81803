"""Agreement of two predictions where there is no label."""

from __future__ import annotations

from torch import Tensor


def softmax_mse(probabilities: Tensor, target: Tensor, mask: Tensor | None = None, *, detach: bool = True) -> Tensor:
    """Mean squared difference of two softmaxes (Laine & Aila 2017, arXiv:1610.02242).

    Args:
        probabilities: [B, C, D, H, W].
        target: [B, C, D, H, W].
        mask: bool, [B, 1, D, H, W], the voxels that count; all where None. An empty mask gives 0.
        detach: hold the target still, so that it teaches and does not learn. False gives each side the gradient that it
            would have with the other held still.
    """
    squared = (probabilities - (target.detach() if detach else target)).square().mean(dim=1, keepdim=True)
    if mask is None:
        return squared.mean()
    return (squared * mask).sum() / mask.sum().clamp_min(1)
