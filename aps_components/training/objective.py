"""What one iteration learns from: the patches, the forward pass and the weighted sum of the losses.

Every method is a set of weights and switches here, never a trainer of its own. All of them share one view of a batch:
patches whose voxels carry either a person's label or a teacher's (:class:`TrainingPatches`). What a label that is not
whole leaves out is the teacher's to label, as an unlabelled scan is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from aps_components.data.copy_paste import draw_box_mask, paste
from aps_components.data.partial import NOT_LABELED, UNDRAWN
from aps_components.label_map import likeliest_class
from aps_components.losses import (
    DiceCrossEntropy,
    HeteroscedasticCrossEntropy,
    iou_loss,
    merged_logits,
    pseudo_label,
    sigmoid_rampup,
    softmax_mse,
    spread,
)
from aps_components.models import Round, TrainingOutput
from aps_components.options import Pieces
from aps_components.prompts import AlteredTargets, SimulatedUser
from aps_components.training.patches import TrainingPatches, as_told, at_size, by_row, judged, told_to_b
from aps_components.training.teacher_consistency import SamplingTeacher, TeacherConsistency

Forward = Callable[..., TrainingOutput]
ConsistencyTarget = Literal["a", "b", "both"]
WEIGHTS = (
    "heteroscedastic_weight",
    "iou_weight",
    "pseudo_label_weight",
    "consistency_weight",
    "cross_pseudo_weight",
    "interaction_weight",
    "click_weight",
)


@dataclass(frozen=True, kw_only=True)
class SemiSupervisedObjective:
    """Which losses there are and what each weighs; 0 switches one off.

    Args:
        supervised: Dice and cross entropy, for Models A and B.
        heteroscedastic: trains A's noise head.
        heteroscedastic_weight: of it.
        iou_weight: of B's IoU head, for the automatic answer and for the corrected ones, a mean over these rounds.
        copy_paste: mix labelled and unlabelled patches in both directions (BCP) instead of using them side by side.
        copy_paste_share: of each axis that the pasted box covers.
        pseudo_label_weight: of the supervised loss on the teacher's labels.
        largest_component: which pieces of a pseudo-label stay, see `label_map.kept_pieces`.
        consistency_weight: of the agreement of A and B on voxels without a person's label.
        consistency_target: the side that is detached and so teaches; ``both``: each teaches the other.
        rampup_iterations: over which pseudo-labels and consistency gain their weight, counted from the end of the
            warm-up.
        warmup_iterations: of plain labelled training before the unlabelled patches come in.
        train_a: False trains Model B beside a Model A that stays as it is.
        train_b: False trains Model A alone, as a pretraining and the methods with a single network do.
        cross_pseudo_weight: of cross pseudo supervision (Chen et al. 2021, arXiv:2106.01226): the cross entropy of each
            model against the other's most likely class, on voxels without a person's label.
        teacher_consistency: agreement with the mean teacher on voxels without a person's label.
        user: prompts and corrects Model B; None gives it Model A's own points and no corrections, as published.
        interaction_weight: of the loss of the corrected answers, a mean over the rounds; 0 teaches nothing of them.
        click_weight: of the cross entropy near what the user marked, in these rounds.
    """

    supervised: DiceCrossEntropy
    heteroscedastic: HeteroscedasticCrossEntropy
    heteroscedastic_weight: float = 0.1
    iou_weight: float = 0.1
    copy_paste: bool = True
    copy_paste_share: float = 2 / 3
    pseudo_label_weight: float = 0.5
    largest_component: Pieces = True
    consistency_weight: float = 0.1
    consistency_target: ConsistencyTarget = "both"
    rampup_iterations: int = 0
    warmup_iterations: int = 0
    train_a: bool = True
    train_b: bool = True
    cross_pseudo_weight: float = 0.0
    teacher_consistency: TeacherConsistency = field(default_factory=TeacherConsistency)
    user: SimulatedUser | None = None
    interaction_weight: float = 1.0
    click_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.consistency_target not in ("a", "b", "both"):
            raise ValueError(f"consistency_target {self.consistency_target!r} must be 'a', 'b' or 'both'")
        if not self.train_a and not self.train_b:
            raise ValueError("train_a and train_b are both false: nothing is left to train")
        for name in WEIGHTS:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} must not be negative")

    @property
    def recordable(self) -> bool:
        """Whether the forward pass can be a CUDA graph: a simulated user acts in the middle of it."""
        return self.user is None and self.train_a

    @property
    def uses_pseudo_labels(self) -> bool:
        """Whether the teacher's labels are a target."""
        return self.pseudo_label_weight > 0

    @property
    def asks_for_labels(self) -> bool:
        """Whether the teacher's labels are needed: a simulated user corrects by them, too."""
        return self.uses_pseudo_labels or (self.train_b and self.user is not None)

    def rampup(self, iteration: int) -> float:
        """Weight of everything unlabelled in iteration 0, 1, ..., in (0, 1]."""
        return sigmoid_rampup(iteration - self.warmup_iterations, self.rampup_iterations)

    def patches(self, batch: Mapping[str, Any], *, teacher: SamplingTeacher, iteration: int) -> TrainingPatches:
        """Turn a two-stream batch into patches.

        Args:
            batch: ``{"labeled": {"image", "label"}, "unlabeled": {"image"}}``, the second part optional. Labels that
                are not whole come with ``undrawn``; see :func:`aps_components.data.collate_two_stream`.
            teacher: image -> logits, without gradients.
            iteration: counted from 0.
        """
        warm = iteration < self.warmup_iterations
        given = self._given(batch["labeled"], teacher, warm=warm)
        if warm or ("unlabeled" not in batch and given.within is None):
            return given
        if "unlabeled" in batch:
            patches = self._joined(given, batch["unlabeled"]["image"], teacher)
        else:
            patches = given._replace(all_labeled=False, within=None)
        if not self.teacher_consistency.weight:
            return patches
        target = self.teacher_consistency.target(
            teacher, patches.image, unlabeled=patches.undecided, rampup=self.rampup(iteration)
        )
        return patches._replace(target=target)

    def _given(self, labeled: Mapping[str, Tensor], teacher: SamplingTeacher, *, warm: bool) -> TrainingPatches:
        """The labelled patches; what their labels leave out does not count, and has the teacher's label, if needed."""
        image, label, undrawn = labeled["image"], labeled["label"].long(), labeled.get(UNDRAWN)
        if undrawn is None:
            return TrainingPatches(image, label, torch.ones_like(label, dtype=torch.bool), all_labeled=True)
        marked = label != NOT_LABELED
        needed = (self.train_b and self.user is not None) if warm else self.asks_for_labels
        if needed:
            label = self._completed(image, label, undrawn, teacher)
        return TrainingPatches(image, label % NOT_LABELED, marked, all_labeled=True, within=marked, undrawn=undrawn)

    @torch.no_grad()
    def _completed(self, image: Tensor, label: Tensor, undrawn: Tensor, teacher: SamplingTeacher) -> Tensor:
        """A label, with the teacher's most likely class of those that a person left open."""
        logits = teacher(image)
        classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1, 1)
        several = (label == 0) & spread(undrawn[:, : logits.shape[1]])
        possible = (label == NOT_LABELED) | (label == classes) | several
        guess = pseudo_label(logits.masked_fill(~possible, -torch.inf), largest_component=self.largest_component)
        said = (label != NOT_LABELED) & ((label != 0) | ~by_row(undrawn.any(dim=1)))
        return torch.where(said, label, guess)

    def _joined(self, given: TrainingPatches, unlabeled: Tensor, teacher: SamplingTeacher) -> TrainingPatches:
        """Labelled and unlabelled patches, mixed or side by side; the second have the teacher's labels, if needed."""
        if self.asks_for_labels:
            with torch.no_grad():
                guess = pseudo_label(teacher(unlabeled), largest_component=self.largest_component)
        else:
            guess = given.label.new_zeros(unlabeled.shape[0], 1, *unlabeled.shape[2:])
        if self.copy_paste:
            return self._mixed(given, unlabeled, guess)
        nowhere, undrawn = torch.zeros_like(guess, dtype=torch.bool), given.undrawn
        return TrainingPatches(
            torch.cat([given.image, unlabeled]),
            torch.cat([given.label, guess]),
            torch.cat([given.labeled, nowhere]),
            all_labeled=False,
            undrawn=None if undrawn is None else torch.cat([undrawn, undrawn.new_zeros(len(guess), undrawn.shape[1])]),
        )

    def _mixed(self, given: TrainingPatches, unlabeled: Tensor, guess: Tensor) -> TrainingPatches:
        """Bidirectional copy-paste of pairs; the patches of the smaller stream serve again until all have a partner."""
        pairs = max(len(given.image), len(unlabeled))
        of_labeled = torch.arange(pairs, device=unlabeled.device) % len(given.image)
        of_unlabeled = torch.arange(pairs, device=unlabeled.device) % len(unlabeled)
        image, label, labeled = given.image[of_labeled], given.label[of_labeled], given.labeled[of_labeled]
        unlabeled, guess = unlabeled[of_unlabeled], guess[of_unlabeled]
        box = draw_box_mask(image.shape[2:], share=self.copy_paste_share).to(image.device)
        return TrainingPatches(
            torch.cat([paste(image, unlabeled, box), paste(unlabeled, image, box)]),
            torch.cat([paste(label, guess, box), paste(guess, label, box)]),
            torch.cat([box & labeled, ~box & labeled]),
            all_labeled=False,
            undrawn=None if given.undrawn is None else given.undrawn[of_labeled].repeat(2, 1),
        )

    def __call__(self, forward: Forward, patches: TrainingPatches, *, iteration: int) -> dict[str, Tensor]:
        """Run the student and give every loss, weighted, by name; ``loss`` is their sum.

        Args:
            forward: image -> ``TrainingOutput``.
            patches: from :meth:`patches`.
            iteration: counted from 0.
        """
        user = self.user if self.train_b else None
        output = forward(
            patches.image,
            with_a=self.train_a,
            with_b=self.train_b,
            label=None if user is None else patches.label,
            user=user,
        )
        rampup = self.rampup(iteration)
        terms = self._label_terms(output, patches, rampup) | self._noise_term(output, patches)
        terms |= self._iou_terms(output, patches)
        terms |= self._interaction_terms(output, patches, rampup)
        terms |= self._deep_terms(terms, output, patches, rampup)
        if not patches.all_labeled:
            # Where classes are exchanged, Model B's answer is neither Model A's nor the teacher's.
            alike = patches.undecided
            if output.rounds:
                alike = alike & ~by_row(output.rounds[0].changed)
            terms |= self._consistency_term(output, alike, rampup)
            terms |= self._cross_pseudo_terms(output, alike, rampup)
            terms |= self._teacher_terms(output, patches, rampup, alike=alike)
        terms["loss"] = torch.stack(list(terms.values())).sum()
        return terms

    def _label_terms(self, output: TrainingOutput, patches: TrainingPatches, rampup: float) -> dict[str, Tensor]:
        """Dice and cross entropy of A and B, against a person's labels and against the teacher's."""
        of_b = told_to_b(patches, output)
        terms: dict[str, Tensor] = {}
        if self.train_a:
            terms |= {f"{name}_a": loss for name, loss in self._losses(output.logits_a, patches, rampup).items()}
        if output.logits_b is not None:
            terms |= {f"{name}_b": loss for name, loss in self._losses(output.logits_b, of_b, rampup).items()}
        return terms

    def _interaction_terms(self, output: TrainingOutput, patches: TrainingPatches, rampup: float) -> dict[str, Tensor]:
        """Dice and cross entropy of Model B's corrected answers, and cross entropy near the corrections."""
        rounds = output.rounds[1:]
        if not output.rounds or not self.interaction_weight:
            return {}
        told = self._told_term(output.rounds[0], patches)
        if not rounds:
            return told
        corrected, clicked = [], []
        for each in rounds:
            terms = self._losses(each.logits, as_told(patches, each, within=each.within), rampup)
            corrected.append(torch.stack(list(terms.values())).sum())
            losses = F.cross_entropy(each.logits.float(), each.target[:, 0], reduction="none")
            near = each.nearness if patches.within is None else each.nearness * patches.within[each.rows]
            clicked.append((losses * near[:, 0]).sum() / near.sum().clamp_min(1))
        weight = self.interaction_weight
        return told | {
            "interaction": weight * torch.stack(corrected).mean(),
            "clicks": weight * self.click_weight * torch.stack(clicked).mean(),
        }

    def _told_term(self, answer: Round, patches: TrainingPatches) -> dict[str, Tensor]:
        """Cross entropy of the automatic answer where its target was altered, as its points tell.

        These voxels are few, and the loss of a whole patch hardly sees them.
        """
        altered = (answer.target != patches.label[answer.rows])[:, 0]
        if patches.within is not None:
            altered = altered & patches.within[answer.rows][:, 0]
        losses = F.cross_entropy(answer.logits.float(), answer.target[:, 0], reduction="none")
        weight = self.interaction_weight * self.click_weight
        return {"told": weight * (losses * altered).sum() / altered.sum().clamp_min(1)}

    def _losses(self, logits: Tensor, patches: TrainingPatches, rampup: float) -> dict[str, Tensor]:
        """Dice and cross entropy of one set of logits; labels are seen at the logits' resolution."""
        patches = patches._replace(
            label=at_size(patches.label, logits.shape[2:]),
            labeled=at_size(patches.labeled, logits.shape[2:]),
            within=None if patches.within is None else at_size(patches.within, logits.shape[2:]),
        )
        masks: list[Tensor | None] = [None] if patches.all_labeled else [patches.labeled]
        weights = {"supervised": 1.0}
        if self.uses_pseudo_labels and not patches.all_labeled:
            masks.append(patches.undecided)
        if patches.within is not None:
            masks = [patches.within if mask is None else mask & patches.within for mask in masks]
        if len(masks) > len(weights):
            weights["pseudo_label"] = self.pseudo_label_weight * rampup
        losses = self._by_region(logits, patches, masks)
        return {name: weight * loss for (name, weight), loss in zip(weights.items(), losses, strict=True)}

    def _by_region(self, logits: Tensor, patches: TrainingPatches, masks: list[Tensor | None]) -> list[Tensor]:
        """In the labelled region, which is the first, classes that nobody drew are one with the background."""
        undrawn = patches.undrawn_of(logits.shape[1])
        if undrawn is None:
            return self.supervised.by_region(logits, patches.label, masks)
        merged = self.supervised.by_region(merged_logits(logits, undrawn), patches.merged_label, masks[:1])
        return [*merged, *self.supervised.by_region(logits, patches.label, masks[1:])]

    def _deep_terms(
        self, terms: Mapping[str, Tensor], output: TrainingOutput, patches: TrainingPatches, rampup: float
    ) -> dict[str, Tensor]:
        """Model A's loss shared out over its levels as in nnU-Net: 1, 1/2, 1/4 ..., of a sum of 1.

        Gives ``terms`` of Model A again, which then weigh less, and those of its coarser levels.
        """
        shares = deep_shares(len(output.deep_logits))
        if len(shares) == 1 or not self.train_a:
            return {}
        shared = {name: shares[0] * terms[name] for name in ("supervised_a", "pseudo_label_a") if name in terms}
        levels = [self._losses(logits, patches, rampup) for logits in output.deep_logits]
        deep = [share * torch.stack([*level.values()]).sum() for share, level in zip(shares[1:], levels, strict=True)]
        return shared | {"deep_a": torch.stack(deep).sum()}

    def _noise_term(self, output: TrainingOutput, patches: TrainingPatches) -> dict[str, Tensor]:
        """A's noise head, where labels are true."""
        if not self.heteroscedastic_weight or not self.train_a:
            return {}
        undrawn = patches.undrawn_of(output.logits_a.shape[1])
        noise = self.heteroscedastic(
            output.logits_a, output.variance, patches.merged_label, patches.labeled, undrawn=undrawn
        )
        return {"heteroscedastic": self.heteroscedastic_weight * noise}

    def _iou_terms(self, output: TrainingOutput, patches: TrainingPatches) -> dict[str, Tensor]:
        """B's IoU head, where labels are true: its opinion of the automatic answer, and of the corrected ones."""
        if not self.iou_weight or output.logits_b is None or output.iou_predictions is None:
            return {}
        automatic = _iou_loss(output.iou_predictions, output.logits_b, told_to_b(patches, output))
        terms = {"iou": self.iou_weight * automatic}
        rounds = output.rounds[1:] if self.interaction_weight else ()
        if rounds:
            losses = [_iou_loss(each.iou_predictions, each.logits, as_told(patches, each)) for each in rounds]
            terms["iou_corrected"] = self.iou_weight * torch.stack(losses).mean()
        return terms

    def _consistency_term(self, output: TrainingOutput, unlabeled: Tensor, rampup: float) -> dict[str, Tensor]:
        """Agreement of A and B where there is no person's label."""
        if not self.consistency_weight or output.logits_b is None:
            return {}
        a, b = output.logits_a.float().softmax(dim=1), output.logits_b.float().softmax(dim=1)
        student, target = (b, a) if self.consistency_target == "a" else (a, b)
        agreement = softmax_mse(student, target, unlabeled, detach=self.consistency_target != "both")
        return {"consistency": self.consistency_weight * rampup * agreement}

    def _cross_pseudo_terms(self, output: TrainingOutput, unlabeled: Tensor, rampup: float) -> dict[str, Tensor]:
        """Each of A and B against the other's hard labels, where there is no person's label."""
        if not self.cross_pseudo_weight or output.logits_b is None:
            return {}
        terms = {}
        for name, logits, other in (("a", output.logits_a, output.logits_b), ("b", output.logits_b, output.logits_a)):
            losses = F.cross_entropy(logits.float(), likeliest_class(other.detach(), dim=1)[:, 0], reduction="none")
            mean = (losses * unlabeled[:, 0]).sum() / unlabeled.sum().clamp_min(1)
            terms[f"cross_pseudo_{name}"] = self.cross_pseudo_weight * rampup * mean
        return terms

    def _teacher_terms(
        self, output: TrainingOutput, patches: TrainingPatches, rampup: float, *, alike: Tensor
    ) -> dict[str, Tensor]:
        """Agreement of A and B with the teacher, where there is no person's label."""
        if patches.target is None:
            return {}
        terms = {}
        of_a = output.logits_a if self.train_a else None
        for name, logits, where in (("a", of_a, patches.undecided), ("b", output.logits_b, alike)):
            if logits is not None:
                difference = self.teacher_consistency.loss(logits, patches.target, unlabeled=where)
                terms[f"teacher_{name}"] = self.teacher_consistency.weight * rampup * difference
        return terms


def _iou_loss(iou_predictions: Tensor, logits: Tensor, told: TrainingPatches) -> Tensor:
    """Of one of Model B's answers and its patches; no gradient reaches the masks."""
    known = judged(told, logits.shape[1])
    return iou_loss(iou_predictions, logits.detach(), told.label, told.labeled, known=known)


def deep_shares(count: int) -> list[float]:
    """What each level weighs in deep supervision, the finest first: halved from level to level, 1 in all.

    Args:
        count: levels below the finest.
    """
    weights = [0.5**level for level in range(count + 1)]
    return [weight / sum(weights) for weight in weights]


def build_objective(
    *,
    ce_weight: float = 0.6,
    dice_weight: float = 1.4,
    class_weights: list[float] | None = None,
    heteroscedastic_samples: int = 2,
    heteroscedastic_stride: int = 2,
    teacher_weight: float = 0.0,
    teacher_noise: float = 0.1,
    teacher_samples: int = 0,
    user: Mapping[str, Any] | None = None,
    **weights: Any,
) -> SemiSupervisedObjective:
    """A :class:`SemiSupervisedObjective` from plain numbers; ``weights`` are its arguments.

    ``user`` has the arguments of :class:`SimulatedUser` that differ from its defaults, and ``targets`` in it those of
    :class:`AlteredTargets`; None trains without corrections.
    """
    given = dict(user or {})
    targets = AlteredTargets(**given.pop("targets", {}))
    return SemiSupervisedObjective(
        user=None if user is None else SimulatedUser(targets=targets, **given),
        supervised=DiceCrossEntropy(ce_weight=ce_weight, dice_weight=dice_weight, class_weights=class_weights),
        heteroscedastic=HeteroscedasticCrossEntropy(samples=heteroscedastic_samples, stride=heteroscedastic_stride),
        teacher_consistency=TeacherConsistency(
            weight=teacher_weight, noise=teacher_noise, uncertainty_samples=teacher_samples
        ),
        **weights,
    )
