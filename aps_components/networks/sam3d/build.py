"""All sizes of the 3-D SAM in one place."""

import logging
from dataclasses import dataclass
from pathlib import Path

from .checkpoint import inflate_sam_checkpoint
from .grid import Size3d, embedding_grid
from .image_encoder import ImageEncoder3d
from .mask_decoder import MaskDecoder3d
from .prompt_encoder import PromptEncoder3d
from .sam3d import Sam3d
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
    ),
    "vit_b": Sam3dVariant(embed_dim=768, depth=12, num_heads=12, window_size=14, global_blocks=(2, 5, 8, 11)),
}


def build_sam3d(
    *,
    num_classes: int,
    in_channels: int = 1,
    variant: str = "small",
    reference_size: Size3d = (112, 112, 80),
    high_res_channels: tuple[int, int] | None = None,
    checkpoint: str | Path | None = None,
) -> Sam3d:
    """Build a 3-D SAM.

    Args:
        num_classes: classes, background included.
        in_channels: modalities of the volume.
        variant: a key of VARIANTS.
        reference_size: (D, H, W) of the usual patch, voxels; position tables are made for it and
            interpolated for other sizes.
        high_res_channels: channels of fine features at 1/4 and 1/2 of the volume, added on the decoder's way
            up; None for none.
        checkpoint: an official 2-D SAM state dict to inflate; the report is then at `inflation_report`.

    Raises:
        ValueError: the variant is unknown, reference_size is not divisible by 8, or the checkpoint is none.
        FileNotFoundError: the checkpoint is missing.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} must be one of {sorted(VARIANTS)}")
    sizes = VARIANTS[variant]
    sam3d = Sam3d(
        ImageEncoder3d(
            in_channels=in_channels,
            embed_dim=sizes.embed_dim,
            depth=sizes.depth,
            num_heads=sizes.num_heads,
            out_channels=sizes.decoder_dim,
            reference_grid=embedding_grid(reference_size, PromptEncoder3d.stride),
            window_size=sizes.window_size,
            global_blocks=sizes.global_blocks,
            global_key_stride=sizes.global_key_stride,
            patch_size=PromptEncoder3d.stride,
        ),
        PromptEncoder3d(embed_dim=sizes.decoder_dim, num_classes=num_classes, mask_channels=sizes.mask_channels),
        MaskDecoder3d(
            sizes.decoder_dim,
            TwoWayTransformer3d(
                depth=sizes.decoder_depth,
                embedding_dim=sizes.decoder_dim,
                num_heads=sizes.decoder_heads,
                mlp_dim=sizes.decoder_mlp_dim,
            ),
            num_classes=num_classes,
            high_res_channels=high_res_channels,
            iou_head_hidden_dim=sizes.iou_head_hidden_dim,
        ),
    )
    if checkpoint is not None:
        sam3d.inflation_report = inflate_sam_checkpoint(sam3d, checkpoint)
        _logger.info("%s", sam3d.inflation_report)
    return sam3d
