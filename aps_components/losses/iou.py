"""The loss of Segment Anything's IoU head: it learns how good the mask is."""

from __future__ import annotations

import torch
from monai.networks import one_hot
from torch import Tensor
from torch.nn import functional as F

from aps_components.label_map import likeliest_class


@torch.no_grad()
def intersection_over_union(prediction: Tensor, label: Tensor, *, num_classes: int, mask: Tensor) -> Tensor:
    """IoU of every class in every case; 1 where both are empty.

    Args:
        prediction: integers, [B, 1, D, H, W].
        label: integers, [B, 1, D, H, W].
        num_classes: C.
        mask: bool, [B, 1, D, H, W], the voxels that count.
    Returns:
        [B, C] in [0, 1].
    """
    predicted = (one_hot(prediction, num_classes, dtype=torch.bool) & mask).flatten(2)
    true = (one_hot(label, num_classes, dtype=torch.bool) & mask).flatten(2)
    intersection, union = (predicted & true).sum(dim=2), (predicted | true).sum(dim=2)
    return torch.where(union > 0, intersection / union.clamp_min(1), 1.0)


def iou_loss(
    iou_predictions: Tensor, logits: Tensor, label: Tensor, mask: Tensor, *, known: Tensor | None = None
) -> Tensor:
    """Squared error of the predicted IoU (Kirillov et al. 2023, arXiv:2304.02643, appendix A), over classes and cases.

    Args:
        iou_predictions: [B, C] in (0, 1).
        logits: of the masks that are judged, [B, C, D, H, W].
        label: integers, [B, 1, D, H, W].
        mask: bool, [B, 1, D, H, W], the voxels whose label is true.
        known: bool, [B, C]: the masks that there is a truth for; all where None.
    """
    prediction = likeliest_class(logits, dim=1)
    true = intersection_over_union(prediction, label, num_classes=logits.shape[1], mask=mask)
    if known is None:
        return F.mse_loss(iou_predictions.float(), true)
    return ((iou_predictions.float() - true).square() * known).sum() / known.sum().clamp_min(1)
