"""Does Model B listen to its prompts? Its answer with those that it is given, with none, and with wrong ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from aps_components.inference import PromptedSlidingWindowInferer
from aps_components.models import AutoPromptSeg
from aps_components.prompts import PAD_LABEL, PointPrompts, PromptGenerator

OWN, NONE, WRONG = "own", "none", "wrong"
PROMPTS = {OWN: "its own", NONE: "none", WRONG: "its own, each of the next class"}


class WrongClasses:
    """Another generator's points, each of the class after its own; the last class's are background's.

    Args:
        generator: of the points.
        num_classes: C.
    """

    def __init__(self, generator: Any, num_classes: int) -> None:
        self.generator, self.num_classes = generator, num_classes

    def __call__(self, *args: Any, **kwargs: Any) -> PointPrompts:
        """Choose the points."""
        prompts: PointPrompts = self.generator(*args, **kwargs)
        labels = prompts.point_labels
        return prompts._replace(point_labels=torch.where(labels == PAD_LABEL, labels, (labels + 1) % self.num_classes))


@contextmanager
def prompted_by(network: AutoPromptSeg, generator: Any) -> Iterator[None]:
    """Let a network's prompts come from another generator for a while."""
    own, network.prompt_generator = network.prompt_generator, generator
    try:
        yield
    finally:
        network.prompt_generator = own


def answers_by_prompts(
    image: Tensor, network: AutoPromptSeg, inferer: PromptedSlidingWindowInferer
) -> dict[str, Tensor]:
    """Model B's probabilities [1, C, D, H, W] of a scan with each of the other :data:`PROMPTS`.

    Args:
        image: [1, in_channels, D, H, W].
        network: in eval mode.
        inferer: over the whole scan.
    """
    generators = {
        NONE: PromptGenerator(points_per_class=0),
        WRONG: WrongClasses(network.prompt_generator, network.num_classes),
    }
    answers = {}
    for name, generator in generators.items():
        with prompted_by(network, generator):
            answers[name] = inferer.predict(image, network).probabilities_b
    return answers
