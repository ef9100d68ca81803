"""Model A as nnU-Net's residual-encoder U-Net, of MONAI's blocks.

References:
    Isensee et al. 2024, nnU-Net Revisited (arXiv:2404.09556): residual blocks in the encoder, a plain decoder.
    Isensee et al. 2021, nnU-Net (doi:10.1038/s41592-020-01008-z): widths, leaky ReLU, deep supervision, He's start.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from monai.networks.blocks.dynunet_block import UnetResBlock, get_conv_layer
from torch import Tensor, nn

from aps_components.convolution import Conv3d
from aps_components.networks.backbone import Backbone, BackboneOutput, as_variance, variance_head
from aps_components.networks.channel_dropout import ChannelDropout
from aps_components.networks.instance_norm import InstanceNorm
from aps_components.networks.upsampling import start_as_blocks
from aps_components.networks.voxel_shape import Triple, checked_kernels, checked_strides

WIDEST = 320  # channels, as in nnU-Net
BLOCKS = (1, 2, 2, 2, 2)  # residual blocks of each level; the last number for further ones
NORM = ("instance", {"affine": True})
ACTIVATION = ("leakyrelu", {"inplace": True, "negative_slope": 0.01})


class _UpStage(nn.Module):
    """Up to the next finer level, joined with its features by a convolution."""

    def __init__(self, in_channels: int, channels: int, *, stride: Triple, kernel_size: Triple) -> None:
        super().__init__()
        self.up = get_conv_layer(
            3, in_channels, channels, kernel_size=stride, stride=stride, act=None, norm=None, is_transposed=True
        )
        self.join = Convolution(
            3,
            2 * channels,
            channels,
            kernel_size=kernel_size,
            adn_ordering="NA",
            norm=NORM,
            act=ACTIVATION,
            bias=False,
        )

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        return self.join(torch.cat([self.up(features), skip], dim=1))


class ResidualEncoderUNet(Backbone):
    """A U-Net of residual blocks on the way down and one convolution a level on the way up, with deep supervision.

    Args:
        in_channels: image channels.
        num_classes: C, background included.
        filters: channels of the finest level; they double from level to level, up to 320.
        dropout: probability for the whole channels dropped at the bottleneck and before the heads.
        strides: of each lower level to the one above, finest first, three or more; None halves every axis four times.
        kernel_sizes: of the convolutions of each level, finest first; None for 3 everywhere.
        blocks: residual blocks of each level; None for 1 at the finest and 2 below.

    Shapes:
        image [B, in_channels, D, H, W], every size divisible by :attr:`stride` -> :class:`BackboneOutput`, in training
        with ``deep_logits`` of all levels but the finest and the two coarsest.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        num_classes: int = 2,
        filters: int = 16,
        dropout: float = 0.5,
        strides: Sequence[Sequence[int]] | None = None,
        kernel_sizes: Sequence[Sequence[int]] | None = None,
        blocks: Sequence[int] | None = None,
    ) -> None:
        steps = checked_strides(strides, exactly=None)
        kernels = checked_kernels(kernel_sizes, strides=steps)
        widths = [min(WIDEST, filters * 2**level) for level in range(len(kernels))]
        super().__init__(
            in_channels=in_channels,
            num_classes=num_classes,
            strides=steps,
            feature_channels=widths,
            head_channels=filters,
            dropout=dropout,
        )
        counts = list(blocks or BLOCKS[: len(widths)])
        counts += counts[-1:] * (len(widths) - len(counts))
        self.stem = Convolution(
            3, in_channels, filters, kernel_size=kernels[0], adn_ordering="NA", norm=NORM, act=ACTIVATION, bias=False
        )
        inputs, into = [filters, *widths[:-1]], [(1, 1, 1), *steps]
        self.encoder = nn.ModuleList(
            _residual_stage(*level) for level in zip(counts, inputs, widths, into, kernels, strict=True)
        )
        self.decoder = nn.ModuleList(
            _UpStage(below, width, stride=step, kernel_size=kernel)
            for below, width, step, kernel in zip(
                widths[:0:-1], widths[-2::-1], steps[::-1], kernels[-2::-1], strict=True
            )
        )
        self.bottleneck_dropout = ChannelDropout(dropout)
        self.head_dropout = ChannelDropout(dropout)
        self.logits_head = nn.Conv3d(filters, num_classes, kernel_size=1)
        # nnU-Net gives the coarsest level of the decoder no loss.
        self.deep_heads = nn.ModuleList(nn.Conv3d(width, num_classes, kernel_size=1) for width in widths[1:-2])
        self.variance_head = variance_head(filters)
        _fit_to_cpu(self)
        self.apply(_start_as_he)

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """The features of all levels, finest first."""
        self._check(image)
        features = [self.encoder[0](self.stem(image))]
        for stage in self.encoder[1:]:
            features.append(stage(features[-1]))
        return tuple(features)

    def decode(
        self, features: tuple[Tensor, ...], *, bottleneck_mask: Tensor | None = None, head_mask: Tensor | None = None
    ) -> BackboneOutput:
        """From the encoder's features to the heads."""
        decoded = [self.bottleneck_dropout(features[-1], bottleneck_mask)]
        for stage, skip in zip(self.decoder, features[-2::-1], strict=True):
            decoded.append(stage(decoded[-1], skip))
        finest = self.head_dropout(decoded[-1], head_mask)
        # So few channels are better contiguous: every softmax and loss after this would copy them otherwise.
        logits, raw_variance = self.logits_head(finest).contiguous(), self.variance_head(finest).contiguous()
        return BackboneOutput(logits, as_variance(raw_variance), self._deep_logits(decoded[-2:1:-1]))

    def _deep_logits(self, decoded: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Of the decoder's levels below the finest, finest first; none where nothing is learned from them."""
        if not (self.training and torch.is_grad_enabled()):
            return ()
        return tuple(head(level).contiguous() for head, level in zip(self.deep_heads, decoded, strict=True))


def _residual_stage(count: int, in_channels: int, channels: int, stride: Triple, kernel_size: Triple) -> nn.Sequential:
    """``count`` residual blocks, the first of which goes down by ``stride``."""
    first = UnetResBlock(3, in_channels, channels, kernel_size, stride, NORM, ACTIVATION)
    others = [UnetResBlock(3, channels, channels, kernel_size, 1, NORM, ACTIVATION) for _ in range(count - 1)]
    return nn.Sequential(first, *others)


def _fit_to_cpu(module: nn.Module) -> None:
    """Our convolution and instance normalisation in the places of torch's: as fast on a GPU, and sound on a CPU."""
    for name, child in module.named_children():
        if isinstance(child, nn.InstanceNorm3d):
            setattr(module, name, InstanceNorm(child.num_features, eps=child.eps))
        elif type(child) is nn.Conv3d and child.kernel_size != (1, 1, 1):
            setattr(module, name, _our_convolution(child))
        else:
            _fit_to_cpu(child)


def _our_convolution(given: nn.Conv3d) -> Conv3d:
    return Conv3d(
        given.in_channels,
        given.out_channels,
        kernel_size=given.kernel_size,  # type: ignore[arg-type]
        stride=given.stride,  # type: ignore[arg-type]
        padding=given.padding,  # type: ignore[arg-type]
        bias=given.bias is not None,
    )


def _start_as_he(module: nn.Module) -> None:
    """He et al. 2015 (arXiv:1502.01852), for leaky ReLU; biases stay, of which the noise's is chosen."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=ACTIVATION[1]["negative_slope"])
    if isinstance(module, nn.ConvTranspose3d):
        start_as_blocks(module)
