"""Model B and a simulated user in training: an answer, corrections, the next answer, on one embedding.

Prompts are obeyed only where the target cannot be known without them. So some patches have altered targets, of which
corrections tell, or Model A's own points. Rounds on one embedding, each with a loss and the earlier answer as a mask
prompt, are SAM's training (Kirillov et al. 2023, arXiv:2304.02643, appendix A).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from aps_components.label_map import likeliest_class, log_probabilities
from aps_components.networks.sam3d import ImageEmbedding, Prompts, Sam3d, box_maps
from aps_components.prompts import (
    PAD_LABEL,
    Click,
    PointPrompts,
    SimulatedUser,
    UserPrompts,
    exchanged_classes,
    with_moved_borders,
)

LabelMap = NDArray[np.integer]
MOST_TOLD = 4  # points in an altered part of a target


class Round(NamedTuple):
    """One answer of Model B in training, for R of the B patches, and what it should have been."""

    rows: Tensor
    """Which patches these are, [R]."""
    logits: Tensor
    """[R, C, D, H, W]."""
    iou_predictions: Tensor
    """[R, C] in (0, 1), Model B's opinion of its own masks."""
    target: Tensor
    """Integers, [R, 1, D, H, W]."""
    changed: Tensor
    """bool, [R]: the target is not the label, and needs no truth."""
    nearness: Tensor
    """[R, 1, D, H, W] in [0, 1]: 1 at what the user marked, falling to 0 where it reaches no further."""
    within: Tensor
    """bool, [R, 1, D, H, W]: where an earlier answer may change: near what the user marked, and in boxes."""


def as_tensors(given: Sequence[UserPrompts], *, device: torch.device | str) -> Prompts:
    """The prompts of B volumes, padded to the same number.

    A scribble's middle voxel is a point as well, so that it has a token.
    """
    clicks = [
        [
            *prompts.clicks,
            *(Click(line.label, line.voxels[len(line.voxels) // 2]) for line in prompts.scribbles if line.voxels),
        ]
        for prompts in given
    ]
    strokes = [[Click(line.label, voxel) for line in prompts.scribbles for voxel in line.voxels] for prompts in given]
    coords, labels = _padded(clicks, device)
    stroke_coords, stroke_labels = _padded(strokes, device)
    most = max((len(prompts.boxes) for prompts in given), default=0)
    boxes = torch.zeros(len(given), most, 2, 3, device=device)
    box_labels = torch.full((len(given), most), PAD_LABEL, dtype=torch.long, device=device)
    for row, prompts in enumerate(given):
        for column, box in enumerate(prompts.boxes):
            boxes[row, column] = torch.tensor([box.least, box.greatest], device=device)
            box_labels[row, column] = box.label
    return Prompts.none(len(given), device=device)._replace(
        point_coords=coords,
        point_labels=labels,
        boxes=boxes if most else None,
        box_labels=box_labels if most else None,
        stroke_coords=stroke_coords if stroke_labels.shape[1] else None,
        stroke_labels=stroke_labels if stroke_labels.shape[1] else None,
    )


def _padded(clicks: Sequence[Sequence[Click]], device: torch.device | str) -> tuple[Tensor, Tensor]:
    most = max((len(each) for each in clicks), default=0)
    coords = torch.zeros(len(clicks), most, 3)
    labels = torch.full((len(clicks), most), PAD_LABEL, dtype=torch.long)
    for row, each in enumerate(clicks):
        if each:
            coords[row, : len(each)] = torch.tensor([click.voxel for click in each], dtype=torch.float32)
            labels[row, : len(each)] = torch.tensor([click.label for click in each])
    return coords.to(device), labels.to(device)


def own_prompts(points: PointPrompts) -> Prompts:
    """Model A's points as prompts, as sure as their scores."""
    coords, labels, scores = points.point_coords, points.point_labels, points.scores.float()
    # No points of a person, of as many volumes: a number of volumes would be a constant of an export.
    return Prompts(coords[:, :0], labels[:, :0], coords, labels, scores)


def together(given: Prompts, coords: Tensor, labels: Tensor, weights: Tensor) -> Prompts:
    """A user's prompts with Model A's own points beside them, [B, K, 3], [B, K] and [B, K]."""
    return given._replace(own_coords=coords, own_labels=labels, own_weights=weights.float())


class InteractiveRounds:
    """The rounds of one batch of patches.

    Args:
        model_b: decodes.
        user: what is drawn, and how often.
        label: the truth or the teacher's word, [B, 1, D, H, W].
        weaker_logits: Model A's under dropout, [B, C, D, H, W].
        points: Model A's own.
        rng: where all is drawn from.
    """

    def __init__(
        self,
        model_b: Sam3d,
        user: SimulatedUser,
        *,
        label: Tensor,
        weaker_logits: Tensor,
        points: PointPrompts,
        rng: np.random.Generator,
    ) -> None:
        self.model_b, self.user, self.rng = model_b, user, rng
        self.weaker_logits = weaker_logits.detach().float()
        labels = label[:, 0].cpu().numpy()
        self.other = likeliest_class(self.weaker_logits, dim=1)[:, 0].cpu().numpy()
        told = (points.point_labels != PAD_LABEL).any(dim=1).cpu().numpy()
        self.flipped = (rng.random(len(labels)) < user.flipped) & told
        self.targets = [
            exchanged_classes(each, rng, num_classes=model_b.num_classes) if flipped else each
            for each, flipped in zip(labels, self.flipped, strict=True)
        ]
        self.changed = self.flipped.copy()
        self.given = [UserPrompts.none() for _ in labels]
        # What is told may take the place of a point: those of the generator stay as they are.
        self.points = PointPrompts(*(part.clone() for part in points))
        self._choose_sources()

    def run(self, embedding: ImageEmbedding, *, image_size: Sequence[int]) -> list[Round]:
        """Every answer, the automatic one, of all patches, first."""
        rounds = [self._answer(embedding, image_size, range(len(self.targets)), None)]
        if self.user.rounds == 1:
            return rounds
        rows = self._corrected()
        self._alter_targets(rows)
        index = torch.tensor(rows, device=embedding.tokens.device)
        chosen = embedding.of(index)
        current = self._start_of_corrections(rounds[0].logits.detach().float()[index], rows)
        for _ in range(1, self.user.rounds):
            current = self._moved(current, self._correct(current, rows), rows, chosen.image)
            rounds.append(self._answer(chosen, image_size, rows, current))
            current = rounds[-1].logits.detach().float()
        return rounds

    def _corrected(self) -> list[int]:
        """A share of the patches, drawn anew each time; last of all those whose classes are exchanged."""
        count = max(1, round(self.user.corrected * len(self.targets)))
        order = self.rng.permutation(len(self.targets)).tolist()
        return sorted(sorted(order, key=lambda row: bool(self.flipped[row]))[:count])

    def _choose_sources(self) -> None:
        """Own points, or a user's first prompts, or none; exchanged classes need the points to be told of.

        Of its own points a patch gets a random part: few points help, many would be the answer itself.
        """
        labels = self.points.point_labels
        for row, target in enumerate(self.targets):
            source = "own" if self.flipped[row] else self.user.source(self.rng)
            if self.flipped[row]:
                labels[row] = self._classes_at(row, target)
            elif source == "own":
                labels[row] = self._with_errors(labels[row])
                dropped = torch.from_numpy(self.rng.random(labels.shape[1]) < self.rng.random())
                labels[row] = labels[row].masked_fill(dropped.to(labels.device), PAD_LABEL)
                if self.rng.random() < self.user.told:
                    self._tell(row)
            else:
                labels[row] = PAD_LABEL
            if source == "simulated":
                self.given[row] = self.user.first_prompts(target, self.rng)

    def _classes_at(self, row: int, target: LabelMap) -> Tensor:
        """The class of each of Model A's points, [K], in another target; pads stay."""
        labels = self.points.point_labels[row]
        d, h, w = self.points.point_coords[row].long().cpu().numpy().T
        told = torch.from_numpy(target[d, h, w].astype(np.int64)).to(labels.device)
        return torch.where(labels == PAD_LABEL, labels, told)

    def _tell(self, row: int) -> None:
        """Alter a patch's target, and let Model A's points say so: those that lie there, and a few that move there."""
        altered, _ = self.user.targets.draw(
            self.targets[row], self.rng, num_classes=self.model_b.num_classes, other=self.other[row]
        )
        places = np.argwhere(altered != self.targets[row])
        coords, labels, scores = (part[row] for part in self.points)
        if not len(places) or not len(labels):
            return
        self.targets[row], self.changed[row] = altered, True
        labels.copy_(self._classes_at(row, altered))
        count = min(int(self.rng.integers(1, MOST_TOLD + 1)), len(labels))
        slots = torch.from_numpy(self.rng.permutation(len(labels))[:count]).to(labels.device)
        chosen = places[self.rng.integers(len(places), size=count)]
        coords[slots] = torch.from_numpy(chosen).to(coords)
        labels[slots] = torch.from_numpy(altered[tuple(chosen.T)].astype(np.int64)).to(labels.device)
        scores[slots] = scores.max()

    def _with_errors(self, labels: Tensor) -> Tensor:
        """Some points, [K], of another class each; pads stay."""
        classes = self.model_b.num_classes
        wrong = torch.from_numpy(self.rng.random(len(labels)) < self.user.wrong).to(labels.device)
        shift = torch.from_numpy(self.rng.integers(1, classes, size=len(labels))).to(labels.device)
        return torch.where(wrong & (labels != PAD_LABEL), (labels + shift) % classes, labels)

    def _alter_targets(self, rows: Sequence[int]) -> None:
        for row in rows:
            if not self.flipped[row] and self.rng.random() < self.user.altered:
                self.targets[row], done = self.user.targets.draw(
                    self.targets[row], self.rng, num_classes=self.model_b.num_classes, other=self.other[row]
                )
                self.changed[row] |= done != "nothing"
                # What the user said of the former target does not hold for this one.
                self.given[row] = UserPrompts.none()

    def _start_of_corrections(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        """The automatic answer, a weaker one, or the mean of both, which is what is corrected in use."""
        drawn = torch.from_numpy(self.rng.random(len(rows))).to(logits.device)[:, None, None, None, None]
        weaker = self.weaker_logits[list(rows)]
        share = self.user.weaker
        mean = log_probabilities((logits.softmax(dim=1) + weaker.softmax(dim=1)) / 2)
        return torch.where(drawn < share, weaker, torch.where(drawn < (1 + share) / 2, mean, logits))

    def _moved(
        self, logits: Tensor, clicks: Sequence[Sequence[Click]], rows: Sequence[int], images: Tensor | None
    ) -> Tensor:
        """Log probabilities of answers whose borders are moved past the new clicks; Model B then corrects them."""
        moved = []
        for index, (row, new) in enumerate(zip(rows, clicks, strict=True)):
            if not new:
                moved.append(logits[index])
                continue
            told = with_moved_borders(
                logits[index].softmax(dim=0),
                new,
                image=None if images is None else images[index],
                said=self.given[row].clicks[: -len(new)],
                spacing=self.model_b.relative_spacing,
            )
            moved.append(log_probabilities(told))
        return torch.stack(moved)

    def _correct(self, logits: Tensor, rows: Sequence[int]) -> list[list[Click]]:
        """The user looks at every second voxel, or so; the new clicks of each row."""
        d, h, w = self.model_b.mask_stride
        spacing = [size * step for size, step in zip(self.model_b.relative_spacing, (d, h, w), strict=True)]
        new: list[list[Click]] = []
        answers = likeliest_class(logits[:, :, ::d, ::h, ::w], dim=1)[:, 0].cpu().numpy()
        for row, answer in zip(rows, answers, strict=True):
            said = self.user.corrections(answer, self.targets[row][::d, ::h, ::w], self.rng, spacing=spacing)
            new.append([Click(c.label, (c.voxel[0] * d, c.voxel[1] * h, c.voxel[2] * w)) for c in said.clicks])
            self.given[row].clicks.extend(new[-1])
            self.given[row].scribbles.extend(
                line._replace(voxels=[(v[0] * d, v[1] * h, v[2] * w) for v in line.voxels]) for line in said.scribbles
            )
        return new

    def _answer(
        self, embedding: ImageEmbedding, image_size: Sequence[int], rows: Sequence[int], mask_inputs: Tensor | None
    ) -> Round:
        device = embedding.tokens.device
        given = as_tensors([self.given[row] for row in rows], device=device)
        index = torch.tensor(list(rows), device=device)
        coords, labels, scores = (each[index] for each in self.points)
        if mask_inputs is not None:  # the earlier answer holds what Model A's points say
            labels = torch.full_like(labels, PAD_LABEL)
        prompts = together(given, coords, labels, scores)
        output = self.model_b.decode(embedding, image_size=image_size, prompts=prompts, mask_inputs=mask_inputs)
        target = torch.from_numpy(np.stack([self.targets[row] for row in rows])[:, None].astype(np.int64))
        changed = torch.from_numpy(self.changed[list(rows)])
        return Round(index, *output, target.to(device), changed.to(device), *self._reached(given, image_size))

    def _reached(self, given: Prompts, image_size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """``nearness`` and ``within``."""
        far = self.model_b.far(*given.marks, size=image_size).amax(dim=1, keepdim=True)
        nearness = F.interpolate(far, size=tuple(image_size), mode="trilinear")
        if given.boxes is None or given.box_labels is None:
            return nearness, nearness > 0
        boxes = box_maps(given.boxes, given.box_labels, num_classes=self.model_b.num_classes, size=image_size)
        cells = F.adaptive_max_pool3d(boxes.amax(dim=1, keepdim=True), (far.shape[2], far.shape[3], far.shape[4]))
        return nearness, F.interpolate(far + cells, size=tuple(image_size), mode="trilinear") > 0
