"""Two models that answer the same volume, the first of which also says where it is unsure."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from aps_components.exporting import refuse_other_sizes
from aps_components.models.decision import Decision
from aps_components.models.interaction import Round, own_prompts
from aps_components.networks.backbone import Backbone
from aps_components.networks.sam3d import ImageEmbedding, Prompts, Sam3dOutput
from aps_components.networks.voxel_shape import Triple
from aps_components.prompts import PointPrompts, PromptGenerator, SimulatedUser
from aps_components.uncertainty import (
    DecoupledUncertainty,
    DropoutMasks,
    MonteCarloSamples,
    UncertaintyForm,
    decouple,
    draw_masks,
    every,
    monte_carlo_samples,
)

Predictor = Literal["a", "b", "average"]


class TrainingOutput(NamedTuple):
    """What one forward pass in training gives; every tensor but the prompts and the uncertainty carries gradients."""

    logits_a: Tensor
    """[B, C, D, H, W], of the first Monte-Carlo sample: a pass of Model A with dropout on."""
    variance: Tensor
    """[B, 1, D, H, W], the data noise of that pass, positive."""
    logits_b: Tensor | None
    """[B, C, D, H, W]; None where Model B is off."""
    iou_predictions: Tensor | None
    """[B, C] in (0, 1), Model B's opinion of its own masks."""
    prompts: PointPrompts | None
    """The points that Model B was given."""
    uncertainty: DecoupledUncertainty | None
    """Of Model A, from all the Monte-Carlo samples, on every ``prompt_stride``-th voxel along each axis."""
    deep_logits: tuple[Tensor, ...] = ()
    """Of coarser levels of Model A, finest first, where it has deep supervision."""
    rounds: tuple[Round, ...] = ()
    """Model B's answers to a simulated user, that of ``logits_b`` first; empty without a user."""


class Seen(NamedTuple):
    """All that depends on the image alone, so that a prompt costs Model B's decoder."""

    image_size: tuple[int, int, int]
    """(D, H, W), voxels."""
    logits_a: Tensor
    """[B, C, D, H, W], Model A without dropout, with the decision's offsets."""
    samples: MonteCarloSamples
    """Of Model A, from which its own points come."""
    uncertainty: DecoupledUncertainty
    """Of Model A, [B, 1, D, H, W] each."""
    embedding: ImageEmbedding
    """Model B's, joined with A's features where there is a fusion."""

    def of(self, row: int) -> Seen:
        """One of the B images, as a batch of one."""
        one = slice(row, row + 1)
        return Seen(
            self.image_size,
            self.logits_a[one],
            MonteCarloSamples(*(maps[:, one] for maps in self.samples)),
            DecoupledUncertainty(*(maps[one] for maps in self.uncertainty)),
            self.embedding.of(torch.arange(row, row + 1, device=self.logits_a.device)),
        )


class SeenByA(NamedTuple):
    """Model A's part of :class:`Seen`, and what Model B needs of it."""

    logits_a: Tensor
    """[B, C, D, H, W], Model A without dropout, with the decision's offsets."""
    samples: MonteCarloSamples
    uncertainty: DecoupledUncertainty
    for_b: Tensor | None
    """Features at 1/8, [B, F, D/8, H/8, W/8]; None where there is no fusion."""


class Prediction(NamedTuple):
    """Everything that is known of a volume after inference."""

    logits: Tensor
    """[B, C, D, H, W], of the model's predictor."""
    logits_a: Tensor
    """[B, C, D, H, W], Model A without dropout, with the decision's offsets."""
    logits_b: Tensor
    """[B, C, D, H, W], Model B, with the decision's offsets."""
    epistemic: Tensor
    """[B, 1, D, H, W], the model's uncertainty."""
    aleatoric: Tensor
    """[B, 1, D, H, W], the data's uncertainty."""
    iou_predictions: Tensor
    """[B, C] in (0, 1)."""
    prompts: PointPrompts
    """The points that Model B was given, in voxels of the volume."""


class TwoModels(nn.Module, ABC):
    """Model A, its Monte-Carlo samples, and a Model B: what training and inference know of both.

    Args:
        model_a: a V-Net, or another backbone.
        model_b: answers the same volume for the same classes.
        prompt_generator: makes the point prompts for Model B; one of no points where it takes none.
        uncertainty_form: ``entropy``, or another, such as the published ``variance``; see ``uncertainty.decouple``.
        mc_samples: T, Monte-Carlo samples.
        predictor: whose logits :meth:`forward` returns: ``a``, ``b``, or ``average``, the mean of the probabilities.
        prompt_stride: look for prompts on every second (2), third ... voxel along each axis: one voxel more or less is
            nothing to a point, and the search costs 1 / stride**3.
        mc_seed: of the dropout masks in inference. All volumes, windows and batches share the T thinned networks drawn
            from it, so that an answer depends on the image alone.

    Shapes:
        image [B, in_channels, D, H, W], every size divisible by :attr:`stride` -> logits [B, C, D, H, W], float32.
    """

    inference_bottleneck_mask: Tensor
    inference_head_mask: Tensor

    def __init__(
        self,
        model_a: Backbone,
        model_b: nn.Module,
        *,
        prompt_generator: PromptGenerator,
        uncertainty_form: UncertaintyForm = "entropy",
        mc_samples: int = 2,
        predictor: Predictor = "average",
        prompt_stride: Sequence[int] = (2, 2, 2),
        mc_seed: int = 0,
    ) -> None:
        super().__init__()
        if predictor not in get_args(Predictor):
            raise ValueError(f"predictor {predictor!r} must be 'a', 'b' or 'average'")
        if uncertainty_form not in get_args(UncertaintyForm):
            raise ValueError(f"uncertainty_form {uncertainty_form!r} must be one of {get_args(UncertaintyForm)}")
        stride = tuple(prompt_stride)
        if min(mc_samples, *stride) < 1:
            raise ValueError(f"mc_samples {mc_samples} and prompt_stride {stride} must be at least 1")
        self.model_a, self.model_b = model_a, model_b
        self.prompt_generator, self.uncertainty_form = prompt_generator, uncertainty_form
        self.predictor, self.prompt_stride = predictor, stride
        self._mc_samples, self._mc_seed = mc_samples, mc_seed
        self._draw_inference_masks()
        self.num_classes = model_a.num_classes
        self.decision = Decision(self.num_classes)
        self.second_view_axes: tuple[int, ...] = ()  # along which a scan may be mirrored, as in training
        self.contrast_varied = False  # in training
        self.temperature = 1.0  # at which the probabilities of its answers are right; see inference.temperature
        self.stride: Triple = model_a.stride  # a multiple of Model B's, whose tokens are A's first three strides

    @property
    @abstractmethod
    def recordable(self) -> bool:
        """Whether a pass in training can be a CUDA graph: random numbers on the CPU in the middle of it cannot."""

    @abstractmethod
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
        """One pass with dropout on.

        Args:
            image: [B, in_channels, D, H, W].
            with_a: False trains Model B alone: Model A is as in inference, but for the dropout of its samples, and
                nothing carries gradients to it.
            with_b: False trains Model A alone.
            masks: of :attr:`mc_samples` samples for each of B items; None draws them from torch's own random numbers.
            label: what a simulated user knows, [B, 1, D, H, W]: the truth, or a teacher's word.
            user: prompts and corrects Model B; None gives it Model A's own points once.
        """

    @abstractmethod
    def for_b(self, features: Sequence[Tensor]) -> Tensor | None:
        """What Model B gets of Model A's features, of ``Backbone.encode``; None for nothing."""

    @abstractmethod
    def embed(self, image: Tensor, of_a: Tensor | None) -> ImageEmbedding:
        """Model B's view of the image.

        Args:
            image: [B, in_channels, D, H, W].
            of_a: what :meth:`for_b` gives, [B, F, D/8, H/8, W/8].
        """

    @abstractmethod
    def answer(
        self, seen: Seen, prompts: Prompts, *, mask_inputs: Tensor | None = None, asked: Prompts | None = None
    ) -> Sam3dOutput:
        """Model B on what was seen and any prompts, with the decision's offsets.

        Args:
            seen: of B images.
            prompts: for each of them.
            mask_inputs: logits of an earlier answer, [B, C, D, H, W]; see ``Sam3d.decode``.
            asked: those of the prompts around which it may change; all by default.
        """

    @property
    def mc_samples(self) -> int:
        """T, Monte-Carlo samples."""
        return self._mc_samples

    @mc_samples.setter
    def mc_samples(self, samples: int) -> None:
        self._mc_samples = samples
        self._draw_inference_masks()

    @property
    def own_slots(self) -> int:
        """Places for Model A's own points among Model B's prompts: as many as the generator gives, padded."""
        return self.num_classes * self.prompt_generator.points_per_class

    @property
    def mc_seed(self) -> int:
        """Of the dropout masks in inference."""
        return self._mc_seed

    @mc_seed.setter
    def mc_seed(self, seed: int) -> None:
        self._mc_seed = seed
        self._draw_inference_masks()

    def _draw_inference_masks(self) -> None:
        """Once and for all, as buffers: what ``predict`` drew itself, an exported network would draw anew each time."""
        generator = torch.Generator().manual_seed(self.mc_seed)
        masks = draw_masks(self.model_a, samples=self.mc_samples, generator=generator)
        self.register_buffer("inference_bottleneck_mask", masks.bottleneck, persistent=False)
        self.register_buffer("inference_head_mask", masks.head, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the model's predictor; Model B does not run for ``a``."""
        image = refuse_other_sizes(image)
        if self.predictor == "a":
            return self.logits_of_a(image)
        return self.predict(image).logits

    def logits_of_a(self, image: Tensor) -> Tensor:
        """Model A's answer alone, [B, C, D, H, W]."""
        return self.decision(self.model_a(image).logits, "a")

    def predict(self, image: Tensor) -> Prediction:
        """Segment, and say where it is unsure and which prompts it used."""
        seen = self.see(image)
        prompts = self.own_points(seen)
        logits_b, iou_predictions = self.answer(seen, own_prompts(prompts))
        logits_a = seen.logits_a
        logits = {"a": logits_a, "b": logits_b}.get(self.predictor)
        if logits is None:
            logits = mean_of_probabilities(logits_a, logits_b)
        return Prediction(logits, logits_a, logits_b, *seen.uncertainty, iou_predictions, prompts)

    def see(self, image: Tensor) -> Seen:
        """Everything that the image alone decides.

        Args:
            image: [B, in_channels, D, H, W].
        """
        of_a = self.see_a(image)
        size = (image.shape[2], image.shape[3], image.shape[4])
        return Seen(size, of_a.logits_a, of_a.samples, of_a.uncertainty, self.embed(image, of_a.for_b))

    def see_a(self, image: Tensor) -> SeenByA:
        """Model A's part of :meth:`see`; Model B does not run."""
        features = self.model_a.encode(image)
        samples = monte_carlo_samples(
            self.model_a, features, DropoutMasks(self.inference_bottleneck_mask, self.inference_head_mask)
        )
        logits_a = self.decision(self.model_a.decode(features).logits, "a")
        uncertainty = self.uncertainty_of(samples)
        return SeenByA(logits_a, samples, uncertainty, self.for_b(features))

    def see_for_prompts(self, image: Tensor) -> Seen:
        """What Model B needs to answer a user's prompts; Model A is not sampled, and its maps are empty.

        Args:
            image: [B, in_channels, D, H, W].
        """
        embedding = self.embed(image, self.for_b(self.model_a.encode(image)))
        size = (image.shape[2], image.shape[3], image.shape[4])
        nothing = image.new_empty((0,))
        return Seen(
            size, nothing, MonteCarloSamples(nothing, nothing), DecoupledUncertainty(nothing, nothing), embedding
        )

    def own_points(self, seen: Seen) -> PointPrompts:
        """Where Model A is certain, in voxels of the image."""
        thinned = MonteCarloSamples(*(every(maps, self.prompt_stride) for maps in seen.samples))
        return self._prompts(thinned)[0]

    def monte_carlo(self, image: Tensor, *, samples: int) -> MonteCarloSamples:
        """``samples`` thinned Model As, drawn from torch's own random numbers, on [B, in_channels, D, H, W]."""
        masks = draw_masks(self.model_a, samples=samples, items=image.shape[0])
        return monte_carlo_samples(self.model_a, self.model_a.encode(image), masks)

    def uncertainty_of(self, samples: MonteCarloSamples) -> DecoupledUncertainty:
        """The model's and the data's, in the form that this network was built with."""
        return decouple(samples.probabilities, samples.variance, form=self.uncertainty_form)

    def _prompts(self, samples: MonteCarloSamples) -> tuple[PointPrompts, DecoupledUncertainty]:
        """Point prompts, in voxels of the volume, from samples on every ``prompt_stride``-th voxel."""
        uncertainty = self.uncertainty_of(samples)
        prompts = self.prompt_generator(
            samples.probabilities.mean(dim=0),
            epistemic=uncertainty.epistemic,
            aleatoric=uncertainty.aleatoric,
            stride=self.prompt_stride,
        )
        return prompts, uncertainty


def mean_of_probabilities(logits_a: Tensor, logits_b: Tensor) -> Tensor:
    """Logits whose softmax is the mean of the two softmaxes; all [B, C, D, H, W]."""
    return torch.logaddexp(logits_a.log_softmax(dim=1), logits_b.log_softmax(dim=1)) - math.log(2)
