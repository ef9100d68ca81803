"""What every Model A is: an encoder, and a decoder with two dropouts and two heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from aps_components.networks.voxel_shape import Triple, by_axis, total_stride

MIN_VARIANCE = 1e-6  # the standard deviation, its square root, has an infinite slope at 0


class BackboneOutput(NamedTuple):
    """What one decoding gives."""

    logits: Tensor
    """Class logits, [B, C, D, H, W]."""
    variance: Tensor
    """Variance of the noise on every logit, positive, [B, 1, D, H, W]."""
    deep_logits: tuple[Tensor, ...] = ()
    """Class logits of coarser levels of the decoder, finest first, for deep supervision; only where gradients are
    computed in training, and only of networks that are made for it."""


class Backbone(nn.Module, ABC):
    """A Model A. All that is random in it lies behind the encoder: two dropouts of whole channels.

    Args:
        in_channels: image channels.
        num_classes: C, background included.
        strides: by which each level is coarser than the one above, finest first.
        feature_channels: of the encoder's levels, finest first: one more than ``strides``.
        head_channels: channels that the heads see.
        dropout: probability for the whole channels dropped at the bottleneck and before the heads.

    Shapes:
        image [B, in_channels, D, H, W], every size divisible by :attr:`stride` -> :class:`BackboneOutput`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        strides: Sequence[Triple],
        feature_channels: Sequence[int],
        head_channels: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes {num_classes} must be at least 2: the background counts as a class")
        self.in_channels, self.num_classes = in_channels, num_classes
        self.strides, self.feature_channels = tuple(strides), tuple(feature_channels)
        self.dropout_channels = (self.feature_channels[-1], head_channels)
        self.dropout_probabilities = (dropout, dropout)

    @property
    def stride(self) -> Triple:
        """Voxels along each axis that become one at the bottom."""
        return total_stride(self.strides)

    @abstractmethod
    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """Everything before the first dropout: deterministic, so Monte-Carlo sampling runs it once.

        Args:
            image: [B, in_channels, D, H, W].
        Returns:
            The features of every level, finest first: ``feature_channels`` of them.
        """

    @abstractmethod
    def decode(
        self, features: tuple[Tensor, ...], *, bottleneck_mask: Tensor | None = None, head_mask: Tensor | None = None
    ) -> BackboneOutput:
        """From the encoder's features to both heads; ``ChannelDropout`` says what the masks do.

        Args:
            features: what :meth:`encode` gave for a batch of B.
            bottleneck_mask: [B or 1, dropout_channels[0], 1, 1, 1].
            head_mask: [B or 1, dropout_channels[1], 1, 1, 1].
        """

    def forward(self, image: Tensor) -> BackboneOutput:
        """Encode and decode: image [B, in_channels, D, H, W] -> :class:`BackboneOutput`."""
        return self.decode(self.encode(image))

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

    def _check(self, image: Tensor) -> None:
        """Refuse an image of other channels or of a size that the levels do not divide."""
        if image.ndim != 5 or image.shape[1] != self.in_channels:
            raise ValueError(f"image {tuple(image.shape)} must be [B, {self.in_channels}, D, H, W]")
        size = tuple(image.shape[2:])
        if any(extent % step for extent, step in zip(size, self.stride, strict=True)):
            raise ValueError(f"image size {size} must be divisible by {by_axis(self.stride)}")


def variance_head(channels: int) -> nn.Conv3d:
    """The head that predicts the noise of the data (Kendall & Gal 2017, arXiv:1703.04977, section 3.1)."""
    head = nn.Conv3d(channels, 1, kernel_size=1)
    # softplus(-3) = 0.05: the noise starts small, so that the first steps learn the classes.
    nn.init.constant_(head.bias, -3.0)  # type: ignore[arg-type]
    return head


def as_variance(raw: Tensor) -> Tensor:
    """A positive variance, float32, from what the head gives."""
    return F.softplus(raw.float()) + MIN_VARIANCE
