"""The supervised loss: weighted cross entropy and Dice, over any region of the volume."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceLoss
from monai.networks import one_hot
from torch import Tensor, nn
from torch.nn import functional as F


class DiceCrossEntropy(nn.Module):
    """``ce_weight * CE + dice_weight * Dice`` (AutoPromptSeg: 0.6 and 1.4).

    Dice is MONAI's, of the foreground classes, over the whole batch at once: a patch without a class then does not make
    that class's Dice jump between 0 and 1. With a mask only the voxels inside it count, in both terms, as in
    bidirectional copy-paste (Bai et al. 2023, arXiv:2305.00673, eq. 6-7); an empty mask gives 0.

    Args:
        ce_weight: of the cross entropy, a mean over the voxels.
        dice_weight: of the Dice loss, a mean over the classes.
        class_weights: [C], of the cross entropy, to help rare classes.
    """

    class_weights: Tensor | None

    def __init__(
        self, *, ce_weight: float = 0.6, dice_weight: float = 1.4, class_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.ce_weight, self.dice_weight = ce_weight, dice_weight
        self.dice = DiceLoss(batch=True)
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, label: Tensor, mask: Tensor | None = None) -> Tensor:
        """Loss of ``logits`` against ``label``.

        Args:
            logits: [B, C, D, H, W].
            label: integers in [0, C), [B, 1, D, H, W].
            mask: bool, [B, 1, D, H, W]; all voxels where None.
        Returns:
            A scalar, in float32.
        """
        return self.by_region(logits, label, [mask])[0]

    def by_region(self, logits: Tensor, label: Tensor, masks: Sequence[Tensor | None]) -> list[Tensor]:
        """The loss in each of several regions, at little more than the cost of one; arguments as :meth:`forward`'s."""
        logits = logits.float()
        per_voxel = F.cross_entropy(logits, label[:, 0].long(), weight=self.class_weights, reduction="none")
        foreground = logits.softmax(dim=1)[:, 1:]
        target = one_hot(label, num_classes=logits.shape[1])[:, 1:]
        losses = []
        for mask in masks:
            if mask is None:
                cross_entropy, dice = per_voxel.mean(), self.dice(foreground, target)
            else:
                region = mask.float()
                cross_entropy = (per_voxel * region[:, 0]).sum() / region.sum().clamp_min(1)
                # Of an empty region MONAI's smoothing makes Dice's 0 / 0 a 1, and the loss 0.
                dice = self.dice(foreground * region, target * region)
            losses.append(self.ce_weight * cross_entropy + self.dice_weight * dice)
        return losses
