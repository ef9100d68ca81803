"""What is asked of a whole training, what its plan is made from, and what the plan says: plain numbers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from aps_components.recipe.settings import FROM_EARLIER, Recipe


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a whole training is to be done.

    Attributes:
        seconds: that it may take.
        seed: of its draws.
        recipe: its numbers.
        jobs, threads, cores: trainings at once, threads of each, and those of one alone.
    """

    seconds: float
    seed: int
    recipe: Recipe
    jobs: int
    threads: int
    cores: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What there is to plan for.

    Attributes:
        labelled, unlabelled: scans to learn from.
        patients: of the labelled scans.
        validation: scans that the dataset keeps apart, to be measured on at the end.
        can_mirror: whether training flips patches, so that windows may be turned.
        jobs: trainings at once.
        known: labelled scans that the model to begin with has learned from; where there are any, none is held out.
    """

    labelled: int
    unlabelled: int
    patients: int
    validation: int = 0
    can_mirror: bool = True
    jobs: int = 1
    known: int = 0

    def can_hold_out(self, recipe: Recipe) -> bool:
        """Whether some labelled scans can be kept from a training, and say how good it is."""
        return not self.known and self.patients >= recipe.fewest_patients


@dataclass(frozen=True)
class Tempo:
    """Seconds of the iterations of a training, the first of which may be faster.

    Attributes:
        pace: of an iteration.
        warmup: of one of the first.
        share: of all iterations, that are such ones.
        least: how many are, in any case.
    """

    pace: float = 0.0
    warmup: float = 0.0
    share: float = 0.0
    least: int = 0

    def seconds(self, iterations: float) -> float:
        """Of so many iterations."""
        first = min(iterations, max(self.share * iterations, self.least))
        return first * self.warmup + (iterations - first) * self.pace

    def iterations(self, seconds: float) -> float:
        """In so many seconds."""
        first = self.least * self.warmup
        if self.least and seconds <= first:
            return seconds / self.warmup
        mean = self.share * self.warmup + (1 - self.share) * self.pace
        return max(self.least + (seconds - first) / self.pace, seconds / mean)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds, measured on this machine.

    Attributes:
        start: of a training before its first iteration: libraries, reading of all scans.
        labeled: of an iteration on labelled patches alone, as many trainings at once as there will be.
        joint: of one on labelled and unlabelled patches.
        alone: of one on labelled patches in a training that has the machine for itself.
        prompt: of an iteration of Model B beside a Model A, as many trainings at once as there will be.
        scan: to answer a scan by Model A, and to measure the answer.
        scan_b: the same by A, B and both.
    """

    start: float
    labeled: float
    joint: float
    alone: float
    prompt: float
    scan: float
    scan_b: float

    def first(self, recipe: Recipe) -> Tempo:
        """Of a first-round training."""
        return Tempo(self.joint, self.labeled, share=recipe.warmup_share, least=recipe.warmup_iterations)

    def first_alone(self, recipe: Recipe) -> Tempo:
        """The same, in a training that has the machine for itself."""
        return Tempo(self.joint_alone, self.alone, share=recipe.warmup_share, least=recipe.warmup_iterations)

    @property
    def joint_alone(self) -> float:
        """Of an iteration on labelled and unlabelled patches in a training that has the machine for itself."""
        return self.joint * self.alone / self.labeled

    @property
    def prompt_alone(self) -> float:
        """Of an iteration of Model B in a training that has the machine for itself."""
        return self.prompt * self.alone / self.labeled


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a plan has, before it is known how long each part is.

    Attributes:
        folds: trainings of the first round, each without some labelled scans.
        parts: that the labelled scans are divided into; 0 for as many as there are folds.
        checked: folds on which a second round is judged.
        second: whether there is one.
        calibrated, mirrored: whether offsets and turned windows are judged.
        seeds: trainings of the first round on all labelled scans, where there are no folds.
        prompted: whether Model B is trained.
        judged: folds on which its answers are judged.
    """

    folds: int
    checked: int = 0
    second: bool = False
    calibrated: bool = False
    mirrored: bool = False
    seeds: int = 0
    prompted: bool = False
    judged: int = 0
    parts: int = 0

    @property
    def divided(self) -> int:
        """Parts that the labelled scans are divided into."""
        return self.parts or self.folds

    @property
    def single(self) -> bool:
        """Whether the first round is a single training, without a part of the labelled scans."""
        return self.folds == 1

    def goes_on(self, recipe: Recipe) -> bool:
        """Whether the last training begins with an earlier model."""
        return recipe.last_from == FROM_EARLIER and bool(self.folds or self.seeds)


@dataclass(frozen=True, kw_only=True)
class Step:
    """Trainings of one kind, one after another or beside each other, with what judges them."""

    name: str
    what: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TimePlan:
    """Which trainings, of how many iterations.

    Attributes:
        shape: what there is.
        first, check, last: iterations of each first-round training, of each that judges the second round, and of the
            last training, which becomes the bundle's Model A.
        complete: of each model of a fold once its answers are judged, on all labelled scans.
        judge, prompt: of each training that judges Model B, and of the bundle's Model B.
        unlabelled: scans that models label for the second round.
        steps: in their order, with their seconds.
        overhead: seconds of all that is no iteration.
    """

    shape: Shape
    first: int
    check: int
    judge: int
    last: int
    prompt: int
    unlabelled: int
    complete: int = 0
    steps: list[Step]
    overhead: float

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return math.fsum(step.seconds for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """Of JSON's types."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TimePlan:
        """Of what :meth:`as_json` gives."""
        steps = [Step(**step) for step in content["steps"]]
        return cls(**{**content, "shape": Shape(**content["shape"]), "steps": steps})
