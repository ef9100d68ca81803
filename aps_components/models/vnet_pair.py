"""Two Model As, such as V-Nets, that teach each other: the method's frame without a SAM, for comparisons."""

from __future__ import annotations

import torch
from torch import Tensor

from aps_components.models.auto_prompt_seg import AutoPromptSeg, Seen, TrainingOutput
from aps_components.networks.backbone import Backbone
from aps_components.networks.sam3d import ImageEmbedding, Prompts, Sam3dOutput
from aps_components.prompts import PointPrompts, PromptGenerator, SimulatedUser
from aps_components.uncertainty import DecoupledUncertainty, DropoutMasks, MonteCarloSamples, UncertaintyForm, decouple


class VNetPair(AutoPromptSeg):
    """Model B is a second V-Net with another random start, which sees the image alone (cross pseudo supervision's
    two networks, Chen et al. 2021, arXiv:2106.01226). There are no prompts and no fusion.

    Args:
        model_a: a V-Net, or another backbone.
        model_b: another of the same kind and classes.
        uncertainty_form: of Model A, as in :class:`AutoPromptSeg`.
        settings: the other arguments of :class:`AutoPromptSeg`.
    """

    def __init__(
        self, model_a: Backbone, model_b: Backbone, *, uncertainty_form: UncertaintyForm, **settings: object
    ) -> None:
        super().__init__(
            model_a,
            model_b,  # type: ignore[arg-type]
            fusion=None,
            prompt_generator=PromptGenerator(points_per_class=0),
            uncertainty_form=uncertainty_form,
            **settings,  # type: ignore[arg-type]
        )

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

    def embed(self, image: Tensor, of_a: Tensor | None) -> ImageEmbedding:
        """The second V-Net's logits, in an embedding's place."""
        return ImageEmbedding(self.model_b(image).logits.float())

    def _prompts(self, samples: MonteCarloSamples) -> tuple[PointPrompts, DecoupledUncertainty]:
        """No points."""
        probabilities = samples.probabilities
        none = probabilities.new_zeros(probabilities.shape[1], 0)
        uncertainty = decouple(probabilities, samples.variance, form=self.uncertainty_form)
        return PointPrompts(none[..., None].expand(-1, -1, 3), none.long(), none), uncertainty

    def answer(self, seen: Seen, prompts: Prompts, *, mask_inputs: Tensor | None = None) -> Sam3dOutput:
        """The second V-Net's logits [B, C, D, H, W]; it takes no prompts and has no opinion of its masks."""
        logits = self.decision(seen.embedding.tokens, "b")
        return Sam3dOutput(logits, torch.full_like(logits[:, :, 0, 0, 0], torch.nan))
