"""A simulated user for training: which prompts a patch begins with, and how its answer is corrected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from aps_components.prompts.altered_targets import AlteredTargets
from aps_components.prompts.simulated import (
    Box,
    Click,
    Scribble,
    any_error,
    deepest_error,
    holds,
    inner_point,
    jittered_box,
    scribble_inside,
)

LabelMap = NDArray[np.integer]
Source = Literal["own", "simulated", "none"]


class UserPrompts(NamedTuple):
    """What a user has given for one volume so far."""

    clicks: list[Click]
    boxes: list[Box]
    scribbles: list[Scribble]

    @classmethod
    def none(cls) -> UserPrompts:
        """Nothing yet."""
        return cls([], [], [])

    @property
    def marks(self) -> list[Click]:
        """Every voxel that was named: clicks, and those of scribbles."""
        return [*self.clicks, *(Click(line.label, voxel) for line in self.scribbles for voxel in line.voxels)]

    def within(self, part: Sequence[slice]) -> UserPrompts:
        """What was said within a part of the volume, in its voxels; a box counts with what lies there."""

        def moved(voxel: Sequence[int]) -> tuple[int, int, int]:
            d, h, w = (index - side.start for index, side in zip(voxel, part, strict=True))
            return d, h, w

        clicks = [Click(click.label, moved(click.voxel)) for click in self.clicks if holds(part, click.voxel)]
        lines = [
            Scribble(line.label, [moved(voxel) for voxel in line.voxels if holds(part, voxel)])
            for line in self.scribbles
        ]
        boxes = []
        for box in self.boxes:
            low = [max(index, side.start) for index, side in zip(box.least, part, strict=True)]
            high = [min(index, side.stop - 1) for index, side in zip(box.greatest, part, strict=True)]
            if all(a <= b for a, b in zip(low, high, strict=True)):
                boxes.append(Box(box.label, moved(low), moved(high)))
        return UserPrompts(clicks, boxes, [line for line in lines if line.voxels])


@dataclass(frozen=True, kw_only=True)
class SimulatedUser:
    """How training prompts Model B.

    Args:
        rounds: decodings of one embedding; the first is the automatic answer, each further one follows corrections. 1
            trains without a user.
        own: how often a patch begins with Model A's own points, relative to the next two.
        simulated: how often it begins with a user's prompts.
        none: how often it begins without any.
        told: share of the patches with Model A's own points whose target is altered before anything is answered; the
            points tell of it where they lie, so that Model B learns to go by them near by.
        flipped: share of the patches whose classes are exchanged, in the target and in Model A's own points, if it has
            any: the answer follows from the points alone.
        wrong: share of Model A's own points in a patch that are of another class than they should be: on scans that it
            learned from they are all right, on others they are not, and Model B is to bear it.
        altered: share of the other patches whose target is altered before the corrections.
        corrected: share of the patches that go through the further rounds, at least one patch; a decoding of all costs
            about a third of Model A's step.
        clicks: most corrections a round.
        deepest: share of the corrections that lie deepest in the largest error; the others lie anywhere in an error.
        weaker: share of the patches whose corrections begin from a weaker answer, Model A's under dropout; half of the
            others begin from the mean of it and Model B's.
        targets: how targets are altered.
    """

    rounds: int = 3
    own: float = 0.5
    simulated: float = 0.15
    none: float = 0.35
    told: float = 0.4
    flipped: float = 0.0
    wrong: float = 0.01
    altered: float = 0.4
    corrected: float = 0.5
    clicks: int = 3
    deepest: float = 0.6
    weaker: float = 0.3
    targets: AlteredTargets = field(default_factory=AlteredTargets)

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.clicks < 1:
            raise ValueError(f"rounds {self.rounds} and clicks {self.clicks} must be at least 1")
        for name in ("told", "flipped", "wrong", "altered", "corrected", "deepest", "weaker"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} must be a share in [0, 1]")
        if min(self.own, self.simulated, self.none) < 0 or not self.own + self.simulated + self.none:
            raise ValueError(
                f"own {self.own}, simulated {self.simulated} and none {self.none} must not be negative or all 0"
            )

    def source(self, rng: np.random.Generator) -> Source:
        """What a patch begins with."""
        share = np.array([self.own, self.simulated, self.none])
        names: Sequence[Source] = get_args(Source)
        return names[int(rng.choice(3, p=share / share.sum()))]

    def first_prompts(self, target: LabelMap, rng: np.random.Generator) -> UserPrompts:
        """Points, boxes or scribbles of some of the classes that are there; others are left out.

        Args:
            target: [D, H, W].
            rng: where to draw from.
        """
        given = UserPrompts.none()
        present = np.unique(target)
        chosen = present[rng.random(len(present)) < 0.75]
        for label in chosen.tolist():
            mask = target == label
            kind = rng.random()
            if kind < 0.25 and label:
                given.boxes.append(jittered_box(mask, rng, label=label))
            elif kind < 0.5:
                given.scribbles.append(scribble_inside(mask, rng, label=label))
            else:
                count = int(rng.integers(1, 4))
                given.clicks.extend(inner_point(mask, rng, label=label) for _ in range(count))
        return given

    def corrections(
        self,
        prediction: LabelMap,
        target: LabelMap,
        rng: np.random.Generator,
        *,
        spacing: Sequence[float] = (1, 1, 1),
    ) -> UserPrompts:
        """Clicks, now and then a scribble, into what is wrong; nothing where nothing is.

        Args:
            prediction: [D, H, W].
            target: [D, H, W].
            rng: where to draw from.
            spacing: voxel size along each axis, any unit, by which depth is measured.
        """
        given = UserPrompts.none()
        count = int(rng.integers(1, self.clicks + 1))
        if rng.random() < self.deepest:
            given.clicks.extend([click] if (click := deepest_error(prediction, target, spacing=spacing)) else [])
            count -= 1
        for _ in range(count):
            given.clicks.extend([click] if (click := any_error(prediction, target, rng)) else [])
        if given.clicks and rng.random() < 0.15:
            label = given.clicks[0].label
            wrong = (prediction != target) & (target == label)
            given.scribbles.append(scribble_inside(wrong, rng, label=label))
        return given
