"""Monte-Carlo dropout that runs the encoder once and decodes all its samples as one batch.

Gal & Ghahramani 2016 (arXiv:1506.02142): dropout left on at test time draws samples of the weights. Here a sample is
one set of dropped *channels*, so it is the same thinned network whatever the size, the position or the company of a
volume: the masks drawn from one seed serve every window of a scan and every item of a batch, and windows that overlap
agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from aps_components.exporting import tracing


class Decoded(Protocol):
    """What a decoding gives: ``logits`` [B, C, D, H, W] and ``variance`` [B, 1, D, H, W]."""

    @property
    def logits(self) -> Tensor:
        """Class logits."""
        ...

    @property
    def variance(self) -> Tensor:
        """Data noise."""
        ...


class StochasticDecoder(Protocol):
    """A network whose randomness all lies behind its encoder, in two channel dropouts."""

    @property
    def dropout_channels(self) -> tuple[int, int]:
        """Channels that the bottleneck's and the head's dropout act on."""
        ...

    @property
    def dropout_probabilities(self) -> tuple[float, float]:
        """Probability with which each of the two drops a channel."""
        ...

    def decode(self, features: tuple[Tensor, ...], *, bottleneck_mask: Tensor, head_mask: Tensor) -> Decoded:
        """Decode with the given masks in the place of random ones."""
        ...


class DropoutMasks(NamedTuple):
    """Inverted-dropout masks, 0 or 1 / (1 - p): T samples for each of B items, or for all items alike (B = 1)."""

    bottleneck: Tensor
    """[T, B or 1, F, 1, 1, 1]."""
    head: Tensor
    """[T, B or 1, F, 1, 1, 1]."""


class MonteCarloSamples(NamedTuple):
    """T samples of the prediction."""

    probabilities: Tensor
    """[T, B, C, D, H, W], float32, summing to 1 over C."""
    variance: Tensor
    """[T, B, 1, D, H, W], float32, the predicted variance of the data noise."""


def draw_masks(
    network: StochasticDecoder, *, samples: int, items: int = 1, generator: torch.Generator | None = None
) -> DropoutMasks:
    """Draw the channels that each of ``samples`` thinned networks drops, on the CPU so that devices agree.

    Args:
        network: gives the numbers of channels and the probabilities.
        samples: T.
        items: B masks a sample, or 1 that all items share.
        generator: where to draw from; torch's global one by default.
    """
    if samples < 1:
        raise ValueError(f"Monte-Carlo samples {samples} must be at least 1")

    def draw(channels: int, probability: float) -> Tensor:
        uniform = torch.rand(samples, items, channels, 1, 1, 1, generator=generator)
        return (uniform >= probability).float() / (1 - probability)

    channels, probabilities = network.dropout_channels, network.dropout_probabilities
    return DropoutMasks(draw(channels[0], probabilities[0]), draw(channels[1], probabilities[1]))


def monte_carlo_samples(
    network: StochasticDecoder, features: tuple[Tensor, ...], masks: DropoutMasks, *, stride: int | Sequence[int] = 1
) -> MonteCarloSamples:
    """Decode the features of B items with T sets of masks, as one batch of T * B.

    In inference mode on a CPU, where a batch is no faster, one sample is decoded after another, in the memory of one.

    Args:
        network: decodes; nothing else of it runs, so batch norm, if it is in eval mode, stays untouched.
        features: the encoder's, each [B, ...].
        masks: of T samples.
        stride: keep every stride-th voxel along each axis.
    """
    samples, items = masks.head.shape[0], features[0].shape[0]
    on_cpu = features[0].device.type == "cpu"
    if samples > 1 and on_cpu and torch.is_inference_mode_enabled() and not tracing():
        single = [DropoutMasks(*(mask[row : row + 1] for mask in masks)) for row in range(samples)]
        found = [monte_carlo_samples(network, features, one, stride=stride) for one in single]
        return MonteCarloSamples(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def for_batch(mask: Tensor) -> Tensor:
        if mask.device != features[0].device:  # a trace would keep the device of an idle `to`
            mask = mask.to(features[0].device)
        return mask.expand(samples, items, *mask.shape[2:]).flatten(0, 1)

    repeated = tuple(torch.cat([feature] * samples) for feature in features) if samples > 1 else features
    decoded = network.decode(repeated, bottleneck_mask=for_batch(masks.bottleneck), head_mask=for_batch(masks.head))
    logits, variance = decoded.logits, decoded.variance
    if stride != 1:
        logits, variance = every(logits, stride), every(variance, stride)
    probabilities = logits.float().softmax(dim=1)
    return MonteCarloSamples(
        probabilities.unflatten(0, (samples, items)), variance.float().unflatten(0, (samples, items))
    )


def every(volume: Tensor, stride: int | Sequence[int]) -> Tensor:
    """Every stride-th voxel of [..., D, H, W] along each axis, from the first on."""
    d, h, w = (stride,) * 3 if isinstance(stride, int) else stride
    return volume[..., ::d, ::h, ::w]
