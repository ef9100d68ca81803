"""One loss per file; Dice and cross entropy themselves are MONAI's and torch's."""

from aps_components.losses.consistency import softmax_mse
from aps_components.losses.heteroscedastic import HeteroscedasticCrossEntropy
from aps_components.losses.iou import intersection_over_union, iou_loss
from aps_components.losses.marginal import merged_logits, spread
from aps_components.losses.pseudo_label import pseudo_label
from aps_components.losses.schedules import sigmoid_rampup
from aps_components.losses.supervised import DiceCrossEntropy

__all__ = [
    "DiceCrossEntropy",
    "HeteroscedasticCrossEntropy",
    "intersection_over_union",
    "iou_loss",
    "merged_logits",
    "pseudo_label",
    "sigmoid_rampup",
    "softmax_mse",
    "spread",
]
