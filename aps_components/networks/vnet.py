"""Model A: the V-Net of the semi-supervised segmentation literature, with a head for the noise of the data.

References:
    Milletari et al. 2016, V-Net (arXiv:1606.04797): the encoder/decoder and its strided convolutions.
    Yu et al. 2019, UA-MT (arXiv:1907.07034): the widths, the 3x3x3 convolutions, the additive skips and the two
        dropout layers that every table of this field uses (MONAI's ``VNet`` has 5x5x5 ones and other widths).
    Kendall & Gal 2017 (arXiv:1703.04977), section 3.1: the head that predicts a variance for each voxel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from aps_components.networks.convolution import Conv3d
from aps_components.networks.instance_norm import InstanceNorm

Norm = Literal["instance", "batch", "group"]
MIN_VARIANCE = 1e-6  # the standard deviation, its square root, has an infinite slope at 0


class VNetOutput(NamedTuple):
    """What one decoding gives."""

    logits: Tensor
    """Class logits, [B, C, D, H, W]."""
    variance: Tensor
    """Variance of the noise on every logit, positive, [B, 1, D, H, W]."""


class VNetFeatures(NamedTuple):
    """The encoder's outputs, finest first: ``level_k`` at 1 / 2**k of the image, ``filters * 2**k`` channels."""

    level_0: Tensor
    level_1: Tensor
    level_2: Tensor
    level_3: Tensor
    level_4: Tensor


class ChannelDropout(nn.Module):
    """Dropout of whole channels that can also be handed its mask.

    Without a mask it is ``torch.nn.Dropout3d``: active in training, the identity otherwise. With one, the mask
    decides, in training or not, which is how Monte-Carlo dropout uses one thinned network for many volumes.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"dropout probability {probability} must lie in [0, 1)")
        self.probability = probability

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Drop channels of ``features`` [B, F, D, H, W]; ``mask`` [B or 1, F, 1, 1, 1] multiplies them instead."""
        if mask is not None:
            return features * mask.to(features.dtype)
        if not self.training or self.probability == 0:
            return features
        keep = torch.empty(*features.shape[:2], 1, 1, 1, device=features.device, dtype=features.dtype)
        return features * keep.bernoulli_(1 - self.probability).div_(1 - self.probability)


def _normalisation(kind: Norm, channels: int) -> nn.Module:
    if kind == "instance":
        return InstanceNorm(channels)
    if kind == "batch":
        return nn.BatchNorm3d(channels)
    if kind == "group":
        if channels % min(16, channels):
            raise ValueError(
                f"norm 'group' has 16 groups, which {channels} channels do not divide into: change filters"
            )
        return nn.GroupNorm(min(16, channels), channels)
    raise ValueError(f"norm {kind!r} must be one of 'instance', 'batch', 'group'")


class _ConvStage(nn.Module):
    """``count`` times convolution, normalisation, ReLU; the input joins before the last ReLU where it is as wide."""

    def __init__(self, count: int, in_channels: int, channels: int, norm: Norm) -> None:
        super().__init__()
        self.residual = in_channels == channels
        layers: list[nn.Module] = []
        for index in range(count):
            layers += [
                Conv3d(in_channels if index == 0 else channels, channels, kernel_size=3, padding=1),
                _normalisation(norm, channels),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, features: Tensor) -> Tensor:
        processed = self.layers(features)
        return F.relu_(processed + features if self.residual else processed)


def _down(in_channels: int, norm: Norm) -> nn.Sequential:
    channels = 2 * in_channels
    return nn.Sequential(
        nn.Conv3d(in_channels, channels, kernel_size=2, stride=2), _normalisation(norm, channels), nn.ReLU(inplace=True)
    )


def _up(in_channels: int, norm: Norm) -> nn.Sequential:
    channels = in_channels // 2
    return nn.Sequential(
        nn.ConvTranspose3d(in_channels, channels, kernel_size=2, stride=2),
        _normalisation(norm, channels),
        nn.ReLU(inplace=True),
    )


class VNet(nn.Module):
    """Five-level V-Net with two heads: class logits and the variance of the data noise.

    Args:
        in_channels: image channels.
        num_classes: C, background included.
        filters: channels of the finest level; 16 is the field's width (9.4 M parameters).
        norm: ``instance`` (batches that mix two kinds of patches shift the statistics of batch norm), ``batch`` (the
            published setting) or ``group``.
        dropout: probability for the whole channels dropped at the bottleneck and before the heads.
        recompute: keep nothing of the decoder's finest level for the backward pass but run it again there (Chen et al.
            2016, arXiv:1604.06174): it is cheap, and holds most of the memory (``benchmarks/train_step.py``). Not with
            batch norm.

    Shapes:
        image [B, in_channels, D, H, W], every size divisible by :attr:`stride` -> :class:`VNetOutput`.
    """

    stride = 16

    def __init__(
        self,
        *,
        in_channels: int = 1,
        num_classes: int = 2,
        filters: int = 16,
        norm: Norm = "instance",
        dropout: float = 0.5,
        recompute: bool = True,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes {num_classes} must be at least 2: the background counts as a class")
        self.in_channels, self.num_classes, self.filters = in_channels, num_classes, filters
        # Run a second time, batch norm would count the batch twice in its running statistics.
        self.recompute = recompute and norm != "batch"
        widths = [filters * 2**level for level in range(5)]
        convolutions = (1, 2, 3, 3, 3)
        self.encoder = nn.ModuleList(
            _ConvStage(count, in_channels if level == 0 else width, width, norm)
            for level, (count, width) in enumerate(zip(convolutions, widths, strict=True))
        )
        self.downs = nn.ModuleList(_down(width, norm) for width in widths[:-1])
        self.ups = nn.ModuleList(_up(width, norm) for width in widths[:0:-1])
        self.decoder = nn.ModuleList(
            _ConvStage(count, width, width, norm)
            for count, width in zip(convolutions[3::-1], widths[3::-1], strict=True)
        )
        self.bottleneck_dropout = ChannelDropout(dropout)
        self.head_dropout = ChannelDropout(dropout)
        self.logits_head = nn.Conv3d(filters, num_classes, kernel_size=1)
        self.variance_head = nn.Conv3d(filters, 1, kernel_size=1)
        # softplus(-3) = 0.05: the noise starts small, so that the first steps learn the classes.
        nn.init.constant_(self.variance_head.bias, -3.0)  # type: ignore[arg-type]

    @property
    def dropout_channels(self) -> tuple[int, int]:
        """Channels that the bottleneck's and the head's dropout act on, in this order."""
        return 16 * self.filters, self.filters

    @property
    def dropout_probabilities(self) -> tuple[float, float]:
        """Probability with which each of the two drops a channel."""
        return self.bottleneck_dropout.probability, self.head_dropout.probability

    @contextmanager
    def frozen_statistics(self) -> Iterator[None]:
        """Further passes over the same batch within it leave the running statistics of batch norm alone."""
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm3d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum

    def encode(self, image: Tensor) -> VNetFeatures:
        """Everything before the first dropout: deterministic, so Monte-Carlo sampling runs it once.

        Args:
            image: [B, in_channels, D, H, W].
        """
        if image.ndim != 5 or image.shape[1] != self.in_channels:
            raise ValueError(f"image {tuple(image.shape)} must be [B, {self.in_channels}, D, H, W]")
        if any(size % self.stride for size in image.shape[2:]):
            raise ValueError(f"image size {tuple(image.shape[2:])} must be divisible by {self.stride}")
        features = [self.encoder[0](image)]
        for down, stage in zip(self.downs, self.encoder[1:], strict=True):
            reduced = down(features[-1])
            features.append(stage(reduced))
        return VNetFeatures(*features)

    def decode(
        self, features: tuple[Tensor, ...], *, bottleneck_mask: Tensor | None = None, head_mask: Tensor | None = None
    ) -> VNetOutput:
        """From the encoder's features to both heads; the masks are described at :class:`ChannelDropout`.

        Args:
            features: what :meth:`encode` gave for a batch of B.
            bottleneck_mask: [B or 1, 16 * filters, 1, 1, 1].
            head_mask: [B or 1, filters, 1, 1, 1].
        """
        decoded = self.bottleneck_dropout(features[-1], bottleneck_mask)
        for up, stage, skip in zip(self.ups[:-1], self.decoder[:-1], features[3:0:-1], strict=True):
            decoded = stage(up(decoded) + skip)
        if self.recompute and torch.is_grad_enabled():
            drawn = head_mask is None  # else nothing in it is random
            finest = checkpoint(
                *(self._finest, decoded, features[0], head_mask), use_reentrant=False, preserve_rng_state=drawn
            )
            return VNetOutput(*finest)
        return VNetOutput(*self._finest(decoded, features[0], head_mask))

    def _finest(self, decoded: Tensor, skip: Tensor, head_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The finest level of the decoder, and both heads."""
        decoded = self.decoder[-1](self.ups[-1](decoded) + skip)
        decoded = self.head_dropout(decoded, head_mask)
        # So few channels are better contiguous: every softmax and loss after this would copy them otherwise.
        logits = self.logits_head(decoded).contiguous()
        raw_variance = self.variance_head(decoded).contiguous()
        return logits, F.softplus(raw_variance.float()) + MIN_VARIANCE

    def forward(self, image: Tensor) -> VNetOutput:
        """Encode and decode: image [B, in_channels, D, H, W] -> :class:`VNetOutput`."""
        return self.decode(self.encode(image))
