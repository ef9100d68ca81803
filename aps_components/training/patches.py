"""A batch as the losses see it: patches whose voxels carry either a person's label or a teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aps_components.models import Round, TrainingOutput
from aps_components.training.teacher_consistency import TeacherTarget


class TrainingPatches(NamedTuple):
    """A batch as the losses see it; N patches."""

    image: Tensor
    """[N, in_channels, D, H, W]."""
    label: Tensor
    """Integers, [N, 1, D, H, W]: a person's where ``labeled``, the teacher's elsewhere, and where the person's is
    "background, or a class that nobody drew"."""
    labeled: Tensor
    """bool, [N, 1, D, H, W]."""
    all_labeled: bool
    """Whether nothing but a person's labels is learned from, known without looking."""
    target: TeacherTarget | None = None
    """What the teacher sees there, where the objective compares the student with it."""
    within: Tensor | None = None
    """bool, [N, 1, D, H, W]: the voxels that count; all where None."""
    undrawn: Tensor | None = None
    """bool, [N, 256] by class: those that nobody drew, in a patch's labelled voxels; none where None."""

    @property
    def undecided(self) -> Tensor:
        """bool, [N, 1, D, H, W]: whose class no person said: without a label, or with one of several classes."""
        if self.undrawn is None:
            return ~self.labeled
        several = self.undrawn.clone()
        several[:, 0] = self.undrawn.any(dim=1)
        return ~self.labeled | _looked_up(several, self.label)

    @property
    def merged_label(self) -> Tensor:
        """The label with the background in the place of classes that nobody drew."""
        return self.label if self.undrawn is None else self.label.masked_fill(_looked_up(self.undrawn, self.label), 0)

    def undrawn_of(self, classes: int) -> Tensor | None:
        """bool, [N, C]; None where all of them are drawn everywhere."""
        return None if self.undrawn is None else self.undrawn[:, :classes]


def as_told(patches: TrainingPatches, answer: Round, *, within: Tensor | None = None) -> TrainingPatches:
    """The patches of one of Model B's answers, with its target: where that was altered, it is true by definition.

    Args:
        patches: all of them.
        answer: to some of them.
        within: bool, [R, 1, D, H, W]: the voxels that count; all where None.
    """
    outer = None if patches.within is None else patches.within[answer.rows]
    counted = [mask for mask in (within, outer) if mask is not None]
    undrawn = patches.undrawn
    return patches._replace(
        image=patches.image[answer.rows],
        label=answer.target,
        labeled=patches.labeled[answer.rows] | by_row(answer.changed),
        within=torch.stack(counted).all(dim=0) if counted else None,
        undrawn=None if undrawn is None else undrawn[answer.rows] & ~answer.changed[:, None],
    )


def told_to_b(patches: TrainingPatches, output: TrainingOutput) -> TrainingPatches:
    """The patches of Model B's automatic answer."""
    return as_told(patches, output.rounds[0]) if output.rounds else patches


def judged(patches: TrainingPatches, classes: int) -> Tensor | None:
    """bool, [N, C]: masks whose truth a person's label tells; None where it tells all of them."""
    undrawn = patches.undrawn_of(classes)
    if undrawn is None and patches.all_labeled:
        return None
    told = patches.labeled.flatten(1).any(dim=1, keepdim=True).expand(-1, classes)
    if undrawn is None:
        return told
    told = told & ~undrawn
    told[:, 0] &= ~undrawn.any(dim=1)
    return told


def at_size(volume: Tensor, size: Sequence[int]) -> Tensor:
    """Labels or a mask [N, 1, D, H, W] seen on a coarser grid: of each of its cells the voxel in the middle."""
    for dim, extent in enumerate(size, start=2):
        step = volume.shape[dim] // extent
        if step > 1:
            middles = torch.arange(extent, device=volume.device) * step + step // 2
            volume = volume.index_select(dim, middles)
    return volume


def by_row(chosen: Tensor) -> Tensor:
    """[B] to [B, 1, 1, 1, 1]."""
    return chosen[:, None, None, None, None]


def _looked_up(table: Tensor, label: Tensor) -> Tensor:
    """What a table [N, 256] of each patch says of its label's classes [N, 1, D, H, W]."""
    return table.gather(1, label.flatten(1)).view_as(label)
