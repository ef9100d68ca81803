"""All sizes of the 3-D SAM in one place."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .fine_path import FinePath
from .grid import ISOTROPIC_KERNELS, ISOTROPIC_STRIDES, Size3d, embedding_grid, product
from .image_encoder import ImageEncoder3d
from .mask_decoder import MaskDecoder3d
from .prompt_encoder import PromptEncoder3d
from .sam3d import Sam3d
from .sam_weights import inflate_sam_checkpoint
from .two_way_transformer import TwoWayTransformer3d

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sam3dVariant:
    """Sizes of one 3-D SAM.

    Attributes:
        embed_dim, depth, num_heads: of the image encoder's transformer.
        window_size: most tokens along the axis of a window.
        global_blocks: indices of the blocks that attend everywhere.
        global_key_stride: edge of the cubes of tokens that these merge into one key.
        decoder_dim: width of the image embedding, the prompts and the decoder.
        decoder_depth, decoder_heads, decoder_mlp_dim: of the two-way transformer.
        iou_head_hidden_dim: of the IoU head.
        mask_channels: hidden channels of the mask prompts.
        stem_channels: of the fine features at 1/2 and 1/4 that the image encoder gives.
        upscaled_channels: of the upscaled tokens at 1/2 and 1/4; SAM's share of decoder_dim where None.
        refining_channels: of the fine path at full size.
    """

    embed_dim: int
    depth: int
    num_heads: int
    window_size: int
    global_blocks: tuple[int, ...]
    global_key_stride: int = 1
    decoder_dim: int = 256  # with the next five, the official decoder's
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_head_hidden_dim: int = 256
    mask_channels: int = 16
    stem_channels: tuple[int, int] = (24, 48)
    upscaled_channels: tuple[int, int] | None = None
    refining_channels: int = 8


VARIANTS = {
    "tiny": Sam3dVariant(
        embed_dim=48,
        depth=2,
        num_heads=3,
        window_size=2,
        global_blocks=(1,),
        decoder_dim=32,
        decoder_depth=2,
        decoder_heads=4,
        decoder_mlp_dim=64,
        iou_head_hidden_dim=32,
        mask_channels=8,
        stem_channels=(8, 16),
        upscaled_channels=(8, 16),
    ),
    # Merged keys: without, a training step on 14 x 14 x 10 tokens takes half as long again (0.85 s, not 0.57).
    "small": Sam3dVariant(
        embed_dim=256, depth=6, num_heads=8, window_size=7, global_blocks=(2, 5), global_key_stride=2
    ),
    # With the V-Net 12.2 M parameters: 25 MB in half precision, what a model zoo takes in one file.
    "compact": Sam3dVariant(
        embed_dim=160,
        depth=4,
        num_heads=5,
        window_size=7,
        global_blocks=(1, 3),
        global_key_stride=2,
        decoder_dim=96,
        decoder_heads=4,
        decoder_mlp_dim=384,
        iou_head_hidden_dim=96,
        upscaled_channels=(24, 48),
    ),
    "vit_b": Sam3dVariant(embed_dim=768, depth=12, num_heads=12, window_size=14, global_blocks=(2, 5, 8, 11)),
}


def build_sam3d(
    *,
    num_classes: int,
    in_channels: int = 1,
    variant: str = "small",
    reference_size: Size3d = (112, 112, 80),
    fine_features: bool = True,
    strides: Sequence[Size3d] = ISOTROPIC_STRIDES,
    kernel_sizes: Sequence[Size3d] = ISOTROPIC_KERNELS,
    checkpoint: str | Path | None = None,
) -> Sam3d:
    """Build a 3-D SAM.

    Args:
        num_classes: classes, background included.
        in_channels: modalities of the volume.
        variant: a key of VARIANTS.
        reference_size: (D, H, W) of the usual patch, voxels; position tables are made for it and
            interpolated for other sizes.
        fine_features: give the image encoder a stem and the decoder a fine path; without, masks come from the tokens
            alone, at 1/2, as SAM's do.
        strides: of the three halvings from voxels to tokens.
        kernel_sizes: of the fine convolutions at full size, 1/2 and 1/4.
        checkpoint: an official 2-D SAM state dict to inflate; the report is then at `inflation_report`.

    Raises:
        ValueError: the variant is unknown, reference_size is not divisible by the stride, or the checkpoint is none.
        FileNotFoundError: the checkpoint is missing.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {sorted(VARIANTS)}")
    sizes = VARIANTS[variant]
    halvings, kernels = [_triple(each) for each in strides[:3]], [_triple(each) for each in kernel_sizes[:3]]
    upscaled = sizes.upscaled_channels or (sizes.decoder_dim // 8, sizes.decoder_dim // 4)
    fine_path = FinePath(
        in_channels=in_channels,
        num_classes=num_classes,
        image_channels=sizes.stem_channels,
        channels=upscaled,
        refining_channels=sizes.refining_channels,
        kernel_sizes=kernels,
    )
    sam3d = Sam3d(
        ImageEncoder3d(
            in_channels=in_channels,
            embed_dim=sizes.embed_dim,
            depth=sizes.depth,
            num_heads=sizes.num_heads,
            out_channels=sizes.decoder_dim,
            reference_grid=embedding_grid(reference_size, product(halvings)),
            window_size=sizes.window_size,
            global_blocks=sizes.global_blocks,
            global_key_stride=sizes.global_key_stride,
            stem_channels=sizes.stem_channels if fine_features else None,
            strides=halvings,
            kernel_sizes=kernels,
        ),
        PromptEncoder3d(
            embed_dim=sizes.decoder_dim,
            num_classes=num_classes,
            mask_channels=sizes.mask_channels,
            strides=halvings,
        ),
        MaskDecoder3d(
            sizes.decoder_dim,
            TwoWayTransformer3d(
                depth=sizes.decoder_depth,
                embedding_dim=sizes.decoder_dim,
                num_heads=sizes.decoder_heads,
                mlp_dim=sizes.decoder_mlp_dim,
            ),
            num_classes=num_classes,
            upscaled_channels=upscaled,
            fine_path=fine_path if fine_features else None,
            strides=halvings,
            iou_head_hidden_dim=sizes.iou_head_hidden_dim,
        ),
    )
    if checkpoint is not None:
        sam3d.inflation_report = inflate_sam_checkpoint(sam3d, checkpoint)
        _logger.info("%s", sam3d.inflation_report)
    return sam3d


def _triple(sizes: Sequence[int]) -> Size3d:
    d, h, w = sizes
    return int(d), int(h), int(w)
