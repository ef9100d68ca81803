"""Passes of the network recorded once as CUDA graphs, then replayed: one launch in the place of thousands.

A training step of small 3-D patches is thousands of short operations, and a GPU waits for the processor to hand them
over one by one. A CUDA graph hands them over together. What is recorded runs with the same memory every time, so a
graph belongs to one shape of patches; another shape is recorded when it comes.

References:
    PyTorch, CUDA semantics, "CUDA Graphs": ``torch.cuda.make_graphed_callables`` and ``torch.cuda.graph``, and why
    autocast must not cache the weights it casts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from aps_components.models import Prediction, TrainingOutput, TwoModels
from aps_components.prompts import PointPrompts
from aps_components.uncertainty import DecoupledUncertainty, DropoutMasks, MonteCarloSamples, draw_masks

WARM_UP = 3  # passes before recording, in which cuDNN and cuBLAS choose their kernels and take their memory


class GraphedStudent:
    """``training_forward`` by replay, the backward pass too; what it returns holds until the next call.

    Dropout masks are drawn on the CPU before each replay, from the numbers that the pass itself would have drawn.

    Args:
        model: :attr:`~TwoModels.recordable`, on a CUDA device. Its parameters may change in place, not be replaced.
    """

    def __init__(self, model: TwoModels) -> None:
        # Where gradients of a replay are added up, a node remembers the stream of the recording; newer PyTorch warns.
        if quiet := getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None):
            quiet(False)
        self.model = model
        self._recorded: dict[tuple[torch.Size, bool], Callable[..., tuple[Tensor, ...]]] = {}

    def __call__(self, image: Tensor, *, with_b: bool = True, **_: Any) -> TrainingOutput:
        """Of [B, in_channels, D, H, W]; Model A learns, and there is no user."""
        masks = draw_masks(self.model.model_a, samples=self.model.mc_samples, items=image.shape[0])
        inputs = (image, masks.bottleneck.to(image.device), masks.head.to(image.device))
        key = image.shape, with_b
        if key not in self._recorded:
            with _without_autocast_cache(), _kept_buffers(self.model):
                self._recorded[key] = torch.cuda.make_graphed_callables(  # type: ignore[assignment]  # a module
                    _FlatTrainingForward(self.model, with_b=with_b),
                    tuple(tensor.clone() for tensor in inputs),
                    num_warmup_iters=WARM_UP,
                    allow_unused_input=True,  # box and mask prompts exist but are not used in training
                )
        return _unflattened(self._recorded[key](*inputs), with_b=with_b)


class GraphedTeacher:
    """A teacher's passes by replay, without gradients; what they return holds until the next call of the same pass.

    Args:
        model: on a CUDA device, in eval mode. Its parameters and buffers may change in place, not be replaced.
    """

    def __init__(self, model: TwoModels) -> None:
        self.model = model
        self._recorded: dict[tuple[str, torch.Size], _Recording] = {}

    def __call__(self, image: Tensor) -> Tensor:
        """Logits [B, C, D, H, W] of the model's predictor."""
        return self._replay("forward", image)

    def predict(self, image: Tensor) -> Prediction:
        """Everything that is known."""
        return self._replay("predict", image)

    def logits_of_a(self, image: Tensor) -> Tensor:
        """Model A's answer alone, [B, C, D, H, W]."""
        return self._replay("logits_of_a", image)

    def monte_carlo(self, image: Tensor, *, samples: int) -> MonteCarloSamples:
        """Thinned Model As; not recorded, as their masks are drawn in the middle."""
        return self.model.monte_carlo(image, samples=samples)

    def _replay(self, method: Literal["forward", "predict", "logits_of_a"], image: Tensor) -> Any:
        key = method, image.shape
        if key not in self._recorded:
            self._recorded[key] = _Recording(getattr(self.model, method), image)
        return self._recorded[key](image)


class _Recording:
    """One pass without gradients on images of one shape."""

    def __init__(self, forward: Callable[[Tensor], Any], image: Tensor) -> None:
        self._image, self._graph = image.clone(), torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), _without_autocast_cache():
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    forward(self._image)
            torch.cuda.current_stream().wait_stream(aside)
            with torch.cuda.graph(self._graph):
                self._output = forward(self._image)

    def __call__(self, image: Tensor) -> Any:
        self._image.copy_(image)
        self._graph.replay()
        return self._output


class _FlatTrainingForward(nn.Module):
    """``training_forward`` from tensors to tensors, as ``make_graphed_callables`` wants it."""

    def __init__(self, model: TwoModels, *, with_b: bool) -> None:
        super().__init__()
        self.model, self.with_b = model, with_b

    def forward(self, image: Tensor, bottleneck_mask: Tensor, head_mask: Tensor) -> tuple[Tensor, ...]:
        masks = DropoutMasks(bottleneck_mask, head_mask)
        output = self.model.training_forward(image, with_b=self.with_b, masks=masks)
        if output.logits_b is None or output.iou_predictions is None:
            return output.logits_a, output.variance, *output.deep_logits
        assert output.prompts is not None  # Model B had some
        assert output.uncertainty is not None
        predicted = output.logits_a, output.variance, output.logits_b, output.iou_predictions
        return *predicted, *output.prompts, *output.uncertainty, *output.deep_logits


def _unflattened(tensors: tuple[Tensor, ...], *, with_b: bool) -> TrainingOutput:
    """What :class:`_FlatTrainingForward` took apart."""
    logits_a, variance, *others = tensors
    if not with_b:
        return TrainingOutput(logits_a, variance, None, None, None, None, tuple(others))
    logits_b, iou_predictions, *others = others
    prompts, uncertainty = PointPrompts(*others[:3]), DecoupledUncertainty(*others[3:5])
    return TrainingOutput(logits_a, variance, logits_b, iou_predictions, prompts, uncertainty, tuple(others[5:]))


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    """The warm-up would count its batch in the running statistics of batch norm."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    yield
    with torch.no_grad():
        for buffer, value in before:
            buffer.copy_(value)


@contextmanager
def _without_autocast_cache() -> Iterator[None]:
    """The autocast that is on, without its cache of cast weights, which a recording must not rely on."""
    with torch.autocast(
        "cuda",
        dtype=torch.get_autocast_dtype("cuda"),
        enabled=torch.is_autocast_enabled("cuda"),
        cache_enabled=False,
    ):
        yield
