"""AutoPromptSeg: Model A's uncertainty prompts Model B. The one place that wires the two together.

A V-Net (Model A) segments a volume several times with Monte-Carlo dropout. Where both its own and the data's
uncertainty are low, the prompt generator puts point prompts for every class. A volume-native Segment Anything model
(Model B), its image embedding fused with A's features, segments the volume again from those prompts. Nobody clicks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from aps_components.models.interaction import InteractiveRounds, own_prompts
from aps_components.models.two_models import Predictor, Seen, TrainingOutput, TwoModels
from aps_components.networks.backbone import Backbone
from aps_components.networks.sam3d import ImageEmbedding, Prompts, Sam3d, Sam3dOutput
from aps_components.networks.voxel_shape import TOKEN_LEVELS
from aps_components.prompts import PromptGenerator, SimulatedUser
from aps_components.uncertainty import (
    DropoutMasks,
    MonteCarloSamples,
    UncertaintyForm,
    draw_masks,
    every,
    monte_carlo_samples,
)


class AutoPromptSeg(TwoModels):
    """Models A and B with the prompt generator and the fusion between them.

    Args:
        model_a: a V-Net, or another backbone.
        model_b: a 3-D SAM for the same classes.
        fusion: joins A's features at 1/8, [B, feature_channels[3], ...], to B's image embedding; None leaves it alone.
        fusion_detached: B's loss does not reach A through the fusion, so it cannot make A's encoder a ready answer.
        fusion_dropped: share of the patches in training for which B gets nothing of A, so that it sees for itself.
        prompt_stride: by default as coarse as Model B's mask prompts.
        prompt_generator: and all others, as of :class:`TwoModels`.

    Shapes:
        image [B, in_channels, D, H, W], every size divisible by :attr:`stride` -> logits [B, C, D, H, W], float32.
    """

    model_b: Sam3d

    def __init__(
        self,
        model_a: Backbone,
        model_b: Sam3d,
        *,
        fusion: nn.Module | None,
        prompt_generator: PromptGenerator,
        fusion_detached: bool = True,
        fusion_dropped: float = 0.5,
        uncertainty_form: UncertaintyForm = "entropy",
        mc_samples: int = 2,
        predictor: Predictor = "average",
        prompt_stride: Sequence[int] | None = None,
        mc_seed: int = 0,
    ) -> None:
        if not 0 <= fusion_dropped <= 1:
            raise ValueError(f"fusion_dropped {fusion_dropped} must be a share in [0, 1]")
        super().__init__(
            model_a,
            model_b,
            prompt_generator=prompt_generator,
            uncertainty_form=uncertainty_form,
            mc_samples=mc_samples,
            predictor=predictor,
            prompt_stride=prompt_stride or model_b.mask_stride,
            mc_seed=mc_seed,
        )
        self.fusion, self.fusion_detached, self.fusion_dropped = fusion, fusion_detached, fusion_dropped

    @property
    def recordable(self) -> bool:
        """Not where points or the fusion draw numbers."""
        return self.prompt_generator.strategy != "random" and not (self.fusion is not None and self.fusion_dropped)

    def answer(
        self, seen: Seen, prompts: Prompts, *, mask_inputs: Tensor | None = None, asked: Prompts | None = None
    ) -> Sam3dOutput:
        """Model B on what was seen and any prompts; see :meth:`TwoModels.answer`."""
        output = self.model_b.decode(
            seen.embedding, image_size=seen.image_size, prompts=prompts, mask_inputs=mask_inputs, asked=asked
        )
        return output._replace(logits=self.decision(output.logits, "b"))

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
        """The output of the pass counts as the first Monte-Carlo sample, so T samples cost T - 1 more."""
        if masks is None:
            masks = draw_masks(self.model_a, samples=self.mc_samples, items=image.shape[0])
        self.model_a.train(with_a and self.training)  # where it stays as it is, so do batch norm's statistics
        with torch.set_grad_enabled(with_a and torch.is_grad_enabled()):
            features = self.model_a.encode(image)
            first = self.model_a.decode(
                features, bottleneck_mask=masks.bottleneck[0].to(image.device), head_mask=masks.head[0].to(image.device)
            )
        if not with_b:
            return TrainingOutput(first.logits, first.variance, None, None, None, None, first.deep_logits)
        with torch.no_grad():
            logits, variance = every(first.logits, self.prompt_stride), every(first.variance, self.prompt_stride)
            samples = MonteCarloSamples(logits.float().softmax(dim=1)[None], variance[None])
            if self.mc_samples > 1:
                others = DropoutMasks(masks.bottleneck[1:], masks.head[1:])
                with self.model_a.frozen_statistics():
                    more = monte_carlo_samples(self.model_a, features, others, stride=self.prompt_stride)
                samples = MonteCarloSamples(*(torch.cat(pair) for pair in zip(samples, more, strict=True)))
            prompts, uncertainty = self._prompts(samples)
        embedding = self.embed(image, self.for_b(features))
        if user is None or label is None:
            logits_b, iou_predictions = self.model_b.decode(
                embedding, image_size=image.shape[2:], prompts=own_prompts(prompts)
            )
            return TrainingOutput(
                *(first.logits, first.variance, logits_b, iou_predictions, prompts, uncertainty), first.deep_logits
            )
        rounds = InteractiveRounds(
            self.model_b,
            user,
            label=label,
            weaker_logits=first.logits,
            points=prompts,
            rng=np.random.default_rng(int(torch.randint(2**62, (1,)))),
        ).run(embedding, image_size=image.shape[2:])
        automatic = rounds[0].logits, rounds[0].iou_predictions
        return TrainingOutput(
            *(first.logits, first.variance, *automatic, prompts, uncertainty), first.deep_logits, tuple(rounds)
        )

    def for_b(self, features: Sequence[Tensor]) -> Tensor | None:
        """Those at 1/8, where there is a fusion."""
        return None if self.fusion is None else features[TOKEN_LEVELS]

    def embed(self, image: Tensor, of_a: Tensor | None) -> ImageEmbedding:
        """Model B's view of the image, joined with Model A's features where there is a fusion."""
        embedding = self.model_b.encode(image)
        if self.fusion is None or of_a is None:
            return embedding
        if self.fusion_detached:
            of_a = of_a.detach()
        if self.training and self.fusion_dropped:
            kept = torch.rand(len(of_a), 1, 1, 1, 1).to(of_a) >= self.fusion_dropped
            of_a = of_a * kept
        return embedding._replace(tokens=self.fusion(of_a, embedding.tokens))
