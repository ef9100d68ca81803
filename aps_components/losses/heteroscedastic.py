"""Cross entropy that trains the head for the noise of the data."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aps_components.losses.marginal import merged_logits


class HeteroscedasticCrossEntropy(nn.Module):
    """Negative log likelihood of logits with a learned Gaussian noise (Kendall & Gal 2017, arXiv:1703.04977, eq. 12).

    ``-log mean_s softmax(logits + sqrt(variance) * noise_s)[label]``: where the label contradicts a confident
    prediction, more variance costs less than being wrong; where it agrees, more variance costs. This is what gives the
    variance head its meaning: without it nothing trains the head.

    Args:
        samples: S, even: the noise is drawn in antithetic pairs, which halves the variance of the estimate.
        stride: take every stride-th voxel along each axis, from a random one on: an estimate of the same mean for
            1 / stride**3 of the work. 1 takes them all.
    """

    def __init__(self, *, samples: int = 2, stride: int = 1) -> None:
        super().__init__()
        if stride < 1:
            raise ValueError(f"stride {stride} must be at least 1")
        self.stride = stride
        if samples < 2 or samples % 2:
            raise ValueError(f"samples {samples} must be even and at least 2: noise is drawn in antithetic pairs")
        self.samples = samples

    def forward(
        self,
        logits: Tensor,
        variance: Tensor,
        label: Tensor,
        mask: Tensor | None = None,
        *,
        undrawn: Tensor | None = None,
    ) -> Tensor:
        """Mean over the voxels of ``mask``.

        Args:
            logits: [B, C, D, H, W].
            variance: positive, of the noise of every logit, [B, 1, D, H, W].
            label: integers, [B, 1, D, H, W].
            mask: bool, [B, 1, D, H, W]; all voxels where None.
            undrawn: bool, [B, C]: classes that the background of a case may be, too; none where None.
        """
        if self.stride > 1:
            d, h, w = (int(torch.randint(min(self.stride, size), (1,))) for size in logits.shape[2:])
            thinned = (..., slice(d, None, self.stride), slice(h, None, self.stride), slice(w, None, self.stride))
            logits, variance, label = logits[thinned], variance[thinned], label[thinned]
            mask = None if mask is None else mask[thinned]
        # A softplus may underflow to 0, where the square root has no gradient.
        deviation = variance.float().clamp_min(torch.finfo(torch.float32).tiny).sqrt()
        logits, target = logits.float(), label[:, 0].long()
        log_likelihoods = []
        for _ in range(self.samples // 2):
            noise = deviation * torch.randn_like(logits)
            for noisy in (logits + noise, logits - noise):
                merged = noisy if undrawn is None else merged_logits(noisy, undrawn)
                log_likelihoods.append(-F.cross_entropy(merged, target, reduction="none"))
        per_voxel = math.log(self.samples) - torch.stack(log_likelihoods).logsumexp(dim=0)  # [B, D, H, W]
        if mask is None:
            return per_voxel.mean()
        region = mask[:, 0].float()
        return (per_voxel * region).sum() / region.sum().clamp_min(1)
