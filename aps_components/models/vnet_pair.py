"""Two Model As, such as V-Nets, that teach each other: the method's frame without a SAM, for comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aps_components.models.two_models import Seen, TrainingOutput, TwoModels
from aps_components.networks.backbone import Backbone
from aps_components.networks.sam3d import ImageEmbedding, Prompts, Sam3dOutput
from aps_components.prompts import PointPrompts, PromptGenerator, SimulatedUser
from aps_components.uncertainty import DropoutMasks


class VNetPair(TwoModels):
    """Model B is a second V-Net with another random start, which sees the image alone (cross pseudo supervision's
    two networks, Chen et al. 2021, arXiv:2106.01226). It takes no prompts.

    Args:
        model_a: a V-Net, or another backbone.
        model_b: another of the same kind and classes.
        settings: the other arguments of :class:`TwoModels`, but for the prompt generator.
    """

    model_b: Backbone

    def __init__(self, model_a: Backbone, model_b: Backbone, **settings: Any) -> None:
        super().__init__(model_a, model_b, prompt_generator=PromptGenerator(points_per_class=0), **settings)

    @property
    def recordable(self) -> bool:
        """Not as Models A and B are: the two draw their dropout themselves."""
        return False

    def training_forward(
        self,
        image: Tensor,
        *,
        with_a: bool = True,
        with_b: bool = True,
        masks: DropoutMasks | None = None,
        label: Tensor | None = None,
        user: SimulatedUser | None = None,
    ) -> TrainingOutput:
        """One pass of each with dropout on; ``masks``, ``label`` and ``user`` have no meaning here."""
        self.model_a.train(with_a and self.training)
        with torch.set_grad_enabled(with_a and torch.is_grad_enabled()):
            first = self.model_a(image)
        logits_b = self.model_b(image).logits if with_b else None
        return TrainingOutput(first.logits, first.variance, logits_b, None, None, None, first.deep_logits)

    def for_b(self, features: Sequence[Tensor]) -> Tensor | None:
        """Nothing."""
        return None

    def embed(self, image: Tensor, of_a: Tensor | None) -> ImageEmbedding:
        """The second V-Net's logits, in an embedding's place."""
        return ImageEmbedding(self.model_b(image).logits.float())

    def own_points(self, seen: Seen) -> PointPrompts:
        """None, without a search."""
        none = seen.logits_a.new_zeros(len(seen.logits_a), 0)
        return PointPrompts(none[..., None].expand(-1, -1, 3), none.long(), none)

    def answer(
        self, seen: Seen, prompts: Prompts, *, mask_inputs: Tensor | None = None, asked: Prompts | None = None
    ) -> Sam3dOutput:
        """The second V-Net's logits [B, C, D, H, W]; it has no opinion of its masks."""
        logits = self.decision(seen.embedding.tokens, "b")
        return Sam3dOutput(logits, torch.full_like(logits[:, :, 0, 0, 0], torch.nan))
