"""What one iteration learns from: the patches, the forward pass and the weighted sum of the losses.

Every method is a set of weights and one switch here, never a trainer of its own. All of them share one view of a batch:
patches whose voxels carry either a person's label or a teacher's (:class:`TrainingPatches`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from aps_components.data.copy_paste import draw_box_mask, paste
from aps_components.losses import (
    DiceCrossEntropy,
    HeteroscedasticCrossEntropy,
    iou_loss,
    pseudo_label,
    sigmoid_rampup,
    softmax_mse,
)
from aps_components.models import TrainingOutput

Forward = Callable[..., TrainingOutput]
Teacher = Callable[[Tensor], Tensor]
ConsistencyTarget = Literal["a", "b", "both"]


class TrainingPatches(NamedTuple):
    """A batch as the losses see it; N patches."""

    image: Tensor
    """[N, in_channels, D, H, W]."""
    label: Tensor
    """Integers, [N, 1, D, H, W]: a person's where ``labeled``, the teacher's elsewhere."""
    labeled: Tensor
    """bool, [N, 1, D, H, W]."""
    all_labeled: bool
    """Whether ``labeled`` is True everywhere, known without looking."""


@dataclass(frozen=True, kw_only=True)
class SemiSupervisedObjective:
    """Which losses there are and what each weighs; 0 switches one off.

    Args:
        supervised: Dice and cross entropy, for Models A and B.
        heteroscedastic: trains A's noise head.
        heteroscedastic_weight: of it.
        iou_weight: of B's IoU head.
        copy_paste: mix labelled and unlabelled patches in both directions (BCP) instead of using them side by side.
        copy_paste_share: of each axis that the pasted box covers.
        pseudo_label_weight: of the supervised loss on the teacher's labels.
        largest_component: of each class in a pseudo-label only.
        consistency_weight: of the agreement of A and B on voxels without a person's label.
        consistency_target: the side that is detached and so teaches; ``both``: each teaches the other.
        rampup_iterations: over which pseudo-labels and consistency gain their weight, counted from the end of the
            warm-up.
        warmup_iterations: of plain labelled training before the unlabelled patches come in.
        train_b: False trains Model A alone, on labelled patches: the pretraining.
    """

    supervised: DiceCrossEntropy
    heteroscedastic: HeteroscedasticCrossEntropy
    heteroscedastic_weight: float = 0.1
    iou_weight: float = 0.1
    copy_paste: bool = True
    copy_paste_share: float = 2 / 3
    pseudo_label_weight: float = 0.5
    largest_component: bool = True
    consistency_weight: float = 0.1
    consistency_target: ConsistencyTarget = "both"
    rampup_iterations: int = 0
    warmup_iterations: int = 0
    train_b: bool = True

    def __post_init__(self) -> None:
        if self.consistency_target not in ("a", "b", "both"):
            raise ValueError(f"consistency_target {self.consistency_target!r} must be 'a', 'b' or 'both'")
        for name in ("heteroscedastic_weight", "iou_weight", "pseudo_label_weight", "consistency_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} must not be negative")

    @property
    def uses_teacher(self) -> bool:
        """Whether pseudo-labels are needed at all."""
        return self.train_b and self.pseudo_label_weight > 0

    def patches(self, batch: Mapping[str, Any], *, teacher: Teacher, iteration: int) -> TrainingPatches:
        """Turn a two-stream batch into patches.

        Args:
            batch: ``{"labeled": {"image", "label"}, "unlabeled": {"image"}}``, the second part optional.
            teacher: image -> logits, without gradients.
            iteration: counted from 0.
        """
        image, label = batch["labeled"]["image"], batch["labeled"]["label"].long()
        everywhere = torch.ones_like(label, dtype=torch.bool)
        if "unlabeled" not in batch or not self.train_b or iteration < self.warmup_iterations:
            return TrainingPatches(image, label, everywhere, all_labeled=True)
        unlabeled = batch["unlabeled"]["image"]
        if self.uses_teacher:
            with torch.no_grad():
                guess = pseudo_label(teacher(unlabeled), largest_component=self.largest_component)
        else:
            guess = label.new_zeros(unlabeled.shape[0], 1, *unlabeled.shape[2:])
        if self.copy_paste:
            return self._mixed(image, label, unlabeled, guess)
        nowhere = torch.zeros_like(guess, dtype=torch.bool)
        return TrainingPatches(
            torch.cat([image, unlabeled]),
            torch.cat([label, guess]),
            torch.cat([everywhere, nowhere]),
            all_labeled=False,
        )

    def _mixed(self, image: Tensor, label: Tensor, unlabeled: Tensor, guess: Tensor) -> TrainingPatches:
        """Bidirectional copy-paste of pairs; the patches of the smaller stream serve again until all have a partner."""
        pairs = max(len(image), len(unlabeled))
        of_labeled = torch.arange(pairs, device=image.device) % len(image)
        of_unlabeled = torch.arange(pairs, device=image.device) % len(unlabeled)
        image, label, unlabeled, guess = (
            image[of_labeled],
            label[of_labeled],
            unlabeled[of_unlabeled],
            guess[of_unlabeled],
        )
        box = draw_box_mask(image.shape[2:], share=self.copy_paste_share).to(image.device)
        return TrainingPatches(
            torch.cat([paste(image, unlabeled, box), paste(unlabeled, image, box)]),
            torch.cat([paste(label, guess, box), paste(guess, label, box)]),
            torch.cat([box.expand_as(label), (~box).expand_as(label)]),
            all_labeled=False,
        )

    def __call__(self, forward: Forward, patches: TrainingPatches, *, iteration: int) -> dict[str, Tensor]:
        """Run the student and give every loss, weighted, by name; ``loss`` is their sum.

        Args:
            forward: image -> ``TrainingOutput``.
            patches: from :meth:`patches`.
            iteration: counted from 0.
        """
        output = forward(patches.image, with_b=self.train_b)
        rampup = sigmoid_rampup(iteration - self.warmup_iterations, self.rampup_iterations)
        terms = self._label_terms(output, patches, rampup) | self._noise_and_iou_terms(output, patches)
        if not patches.all_labeled:
            terms |= self._consistency_term(output, ~patches.labeled, rampup)
        terms["loss"] = torch.stack(list(terms.values())).sum()
        return terms

    def _label_terms(self, output: TrainingOutput, patches: TrainingPatches, rampup: float) -> dict[str, Tensor]:
        """Dice and cross entropy of A and B, against a person's labels and against the teacher's."""
        masks: list[Tensor | None] = [None] if patches.all_labeled else [patches.labeled]
        weights = {"supervised": 1.0}
        if self.uses_teacher and not patches.all_labeled:
            masks.append(~patches.labeled)
            weights["pseudo_label"] = self.pseudo_label_weight * rampup
        terms: dict[str, Tensor] = {}
        for model, logits in (("a", output.logits_a), ("b", output.logits_b)):
            if logits is not None:
                losses = self.supervised.by_region(logits, patches.label, masks)
                terms |= {
                    f"{name}_{model}": weight * loss
                    for (name, weight), loss in zip(weights.items(), losses, strict=True)
                }
        return terms

    def _noise_and_iou_terms(self, output: TrainingOutput, patches: TrainingPatches) -> dict[str, Tensor]:
        """A's noise head and B's IoU head, against a person's labels."""
        terms: dict[str, Tensor] = {}
        if self.heteroscedastic_weight:
            noise = self.heteroscedastic(output.logits_a, output.variance, patches.label, patches.labeled)
            terms["heteroscedastic"] = self.heteroscedastic_weight * noise
        if self.iou_weight and output.logits_b is not None and output.iou_predictions is not None:
            iou = iou_loss(output.iou_predictions, output.logits_b.detach(), patches.label, patches.labeled)
            terms["iou"] = self.iou_weight * iou
        return terms

    def _consistency_term(self, output: TrainingOutput, unlabeled: Tensor, rampup: float) -> dict[str, Tensor]:
        """Agreement of A and B where there is no person's label."""
        if not self.consistency_weight or output.logits_b is None:
            return {}
        a, b = output.logits_a.float().softmax(dim=1), output.logits_b.softmax(dim=1)
        student, target = (b, a) if self.consistency_target == "a" else (a, b)
        agreement = softmax_mse(student, target, unlabeled, detach=self.consistency_target != "both")
        return {"consistency": self.consistency_weight * rampup * agreement}


def build_objective(
    *,
    ce_weight: float = 0.6,
    dice_weight: float = 1.4,
    class_weights: list[float] | None = None,
    heteroscedastic_samples: int = 2,
    heteroscedastic_stride: int = 2,
    **weights: Any,
) -> SemiSupervisedObjective:
    """A :class:`SemiSupervisedObjective` from plain numbers; ``weights`` are its arguments."""
    return SemiSupervisedObjective(
        supervised=DiceCrossEntropy(ce_weight=ce_weight, dice_weight=dice_weight, class_weights=class_weights),
        heteroscedastic=HeteroscedasticCrossEntropy(samples=heteroscedastic_samples, stride=heteroscedastic_stride),
        **weights,
    )
