"""Model A: the V-Net of the semi-supervised segmentation literature, with a head for the noise of the data.

References:
    Milletari et al. 2016, V-Net (arXiv:1606.04797): the encoder/decoder and its strided convolutions.
    Yu et al. 2019, UA-MT (arXiv:1907.07034): the widths, the 3x3x3 convolutions, the additive skips and the two
        dropout layers that every table of this field uses (MONAI's ``VNet`` has 5x5x5 ones and other widths).
    Kendall & Gal 2017 (arXiv:1703.04977), section 3.1: the head that predicts a variance for each voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from aps_components.convolution import Conv3d
from aps_components.networks.backbone import Backbone, BackboneOutput, as_variance, variance_head
from aps_components.networks.channel_dropout import ChannelDropout
from aps_components.networks.instance_norm import InstanceNorm
from aps_components.networks.upsampling import start_as_blocks
from aps_components.networks.voxel_shape import Triple, checked_kernels, checked_strides

Norm = Literal["instance", "batch", "group"]
CONVOLUTIONS = (1, 2, 3, 3, 3)  # of each level, finest first


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

    def __init__(self, count: int, in_channels: int, channels: int, *, norm: Norm, kernel_size: Triple) -> None:
        super().__init__()
        padding = (kernel_size[0] // 2, kernel_size[1] // 2, kernel_size[2] // 2)
        self.residual = in_channels == channels
        layers: list[nn.Module] = []
        for index in range(count):
            layers += [
                Conv3d(in_channels if index == 0 else channels, channels, kernel_size=kernel_size, padding=padding),
                _normalisation(norm, channels),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, features: Tensor) -> Tensor:
        processed = self.layers(features)
        return F.relu_(processed + features if self.residual else processed)


def _down(in_channels: int, norm: Norm, stride: Triple) -> nn.Sequential:
    channels = 2 * in_channels
    return nn.Sequential(
        nn.Conv3d(in_channels, channels, kernel_size=stride, stride=stride),
        _normalisation(norm, channels),
        nn.ReLU(inplace=True),
    )


def _up(in_channels: int, norm: Norm, stride: Triple) -> nn.Sequential:
    channels = in_channels // 2
    return nn.Sequential(
        start_as_blocks(nn.ConvTranspose3d(in_channels, channels, kernel_size=stride, stride=stride)),
        _normalisation(norm, channels),
        nn.ReLU(inplace=True),
    )


class VNet(Backbone):
    """Five-level V-Net with two heads: class logits and the variance of the data noise.

    Args:
        in_channels: image channels.
        num_classes: C, background included.
        filters: channels of the finest level; 16 is the field's width (9.4 M parameters).
        norm: ``instance`` (batches that mix two kinds of patches shift the statistics of batch norm), ``batch`` (the
            published setting) or ``group``.
        dropout: probability for the whole channels dropped at the bottleneck and before the heads.
        strides: of each of the four lower levels to the one above, finest first; None halves every axis every time.
        kernel_sizes: of the convolutions of each of the five levels, finest first; None for 3 everywhere.
        recompute: keep nothing of the decoder's finest level for the backward pass but run it again there (Chen et al.
            2016, arXiv:1604.06174): it is cheap, and holds most of the memory (``benchmarks/train_step.py``). Not with
            batch norm.

    Shapes:
        image [B, in_channels, D, H, W], every size divisible by :attr:`stride` -> :class:`BackboneOutput`.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        num_classes: int = 2,
        filters: int = 16,
        norm: Norm = "instance",
        dropout: float = 0.5,
        strides: Sequence[Sequence[int]] | None = None,
        kernel_sizes: Sequence[Sequence[int]] | None = None,
        recompute: bool = True,
    ) -> None:
        steps, kernels = checked_strides(strides), checked_kernels(kernel_sizes)
        widths = [filters * 2**level for level in range(len(kernels))]
        super().__init__(
            in_channels=in_channels,
            num_classes=num_classes,
            strides=steps,
            feature_channels=widths,
            head_channels=filters,
            dropout=dropout,
        )
        # Run a second time, batch norm would count the batch twice in its running statistics.
        self.recompute = recompute and norm != "batch"
        levels = list(zip(CONVOLUTIONS, [in_channels, *widths[1:]], widths, kernels, strict=True))
        self.encoder = nn.ModuleList(
            _ConvStage(count, first, width, norm=norm, kernel_size=kernel) for count, first, width, kernel in levels
        )
        self.downs = nn.ModuleList(_down(width, norm, step) for width, step in zip(widths[:-1], steps, strict=True))
        self.ups = nn.ModuleList(_up(width, norm, step) for width, step in zip(widths[:0:-1], steps[::-1], strict=True))
        self.decoder = nn.ModuleList(
            _ConvStage(count, width, width, norm=norm, kernel_size=kernel) for count, _, width, kernel in levels[-2::-1]
        )
        self.bottleneck_dropout = ChannelDropout(dropout)
        self.head_dropout = ChannelDropout(dropout)
        self.logits_head = nn.Conv3d(filters, num_classes, kernel_size=1)
        self.variance_head = variance_head(filters)

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """The features of the five levels, finest first."""
        self._check(image)
        features = [self.encoder[0](image)]
        for down, stage in zip(self.downs, self.encoder[1:], strict=True):
            reduced = down(features[-1])
            features.append(stage(reduced))
        return tuple(features)

    def decode(
        self, features: tuple[Tensor, ...], *, bottleneck_mask: Tensor | None = None, head_mask: Tensor | None = None
    ) -> BackboneOutput:
        """From the encoder's features to both heads."""
        decoded = self.bottleneck_dropout(features[-1], bottleneck_mask)
        for up, stage, skip in zip(self.ups[:-1], self.decoder[:-1], features[-2:0:-1], strict=True):
            decoded = stage(up(decoded) + skip)
        if self.recompute and torch.is_grad_enabled():
            drawn = head_mask is None  # else nothing in it is random
            finest = checkpoint(
                *(self._finest, decoded, features[0], head_mask), use_reentrant=False, preserve_rng_state=drawn
            )
            return BackboneOutput(*finest)
        return BackboneOutput(*self._finest(decoded, features[0], head_mask))

    def _finest(self, decoded: Tensor, skip: Tensor, head_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The finest level of the decoder, and both heads."""
        decoded = self.decoder[-1](self.ups[-1](decoded) + skip)
        decoded = self.head_dropout(decoded, head_mask)
        # So few channels are better contiguous: every softmax and loss after this would copy them otherwise.
        logits = self.logits_head(decoded).contiguous()
        raw_variance = self.variance_head(decoded).contiguous()
        return logits, as_variance(raw_variance)
