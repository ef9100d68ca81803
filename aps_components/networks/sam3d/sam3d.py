"""A Segment Anything Model for volumes (after Kirillov et al. 2023, arXiv:2304.02643)."""

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from .grid import Size3d, embedding_grid
from .image_encoder import ImageEncoder3d
from .mask_decoder import HighResFeatures, MaskDecoder3d
from .prompt_encoder import Boxes, Points, PromptEncoder3d

if TYPE_CHECKING:
    from .checkpoint import InflationReport


class Sam3dOutput(NamedTuple):
    """What the mask decoder says."""

    low_res_logits: Tensor  # [B, C, D/2, H/2, W/2]
    iou_predictions: Tensor  # [B, C], in (0, 1)


class Sam3d(nn.Module):
    """Image encoder, prompt encoder and mask decoder, put together."""

    def __init__(
        self, image_encoder: ImageEncoder3d, prompt_encoder: PromptEncoder3d, mask_decoder: MaskDecoder3d
    ) -> None:
        """Put the parts together.

        Raises:
            ValueError: the image encoder's stride or width is not the prompt encoder's.
        """
        super().__init__()
        if image_encoder.patch_size != prompt_encoder.stride:
            raise ValueError(f"patch_size {image_encoder.patch_size} must be {prompt_encoder.stride}")
        if image_encoder.out_channels != prompt_encoder.embed_dim:
            raise ValueError(f"out_channels {image_encoder.out_channels} must be {prompt_encoder.embed_dim}")
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.stride = image_encoder.patch_size
        self.inflation_report: InflationReport | None = None

    def encode(self, image: Tensor) -> Tensor:
        """The image embedding; [B, in_channels, D, H, W] -> [B, E, D/8, H/8, W/8].

        Raises:
            ValueError: a size is not divisible by the stride, 8.
        """
        return self.image_encoder(image)

    def decode(
        self,
        image_embedding: Tensor,
        *,
        image_size: Size3d,
        points: Points | None = None,
        boxes: Boxes | None = None,
        mask_inputs: Tensor | None = None,
        high_res_features: HighResFeatures | None = None,
    ) -> Sam3dOutput:
        """Predict masks from an image embedding and any prompts, or none.

        Args:
            image_embedding: [B, E, D/8, H/8, W/8], from `encode` or made from it.
            image_size: (D, H, W) of the volume, voxels.
            points: point_coords [B, N, 3], voxel indices in (d, h, w) order, and point_labels [B, N], class
                ids, -1 pads.
            boxes: corners [B, M, 2, 3], voxel indices, and box_labels [B, M], -1 pads.
            mask_inputs: logits, [B, C, D/2, H/2, W/2].
            high_res_features: [B, F4, D/4, H/4, W/4] and [B, F2, D/2, H/2, W/2].

        Returns:
            low_res_logits [B, C, D/2, H/2, W/2] and iou_predictions [B, C].

        Raises:
            ValueError: image_size is not divisible by the stride or is not the embedding's, or a prompt does
                not fit (see PromptEncoder3d).
        """
        grid = embedding_grid(image_size, self.stride)
        if tuple(image_embedding.shape[2:]) != grid:
            raise ValueError(f"image_embedding {tuple(image_embedding.shape[2:])} must be {grid} for {image_size}")
        sparse, dense = self.prompt_encoder(
            image_size=image_size,
            points=points,
            boxes=boxes,
            mask_inputs=mask_inputs,
            batch_size=image_embedding.shape[0],
        )
        low_res_logits, iou_predictions = self.mask_decoder(
            image_embedding,
            self.prompt_encoder.get_dense_pe(grid),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            high_res_features=high_res_features,
        )
        return Sam3dOutput(low_res_logits, iou_predictions)

    def forward(
        self,
        image: Tensor,
        *,
        points: Points | None = None,
        boxes: Boxes | None = None,
        mask_inputs: Tensor | None = None,
        high_res_features: HighResFeatures | None = None,
    ) -> Tensor:
        """Encode, decode and upsample; [B, in_channels, D, H, W] -> logits [B, C, D, H, W].

        The prompts are `decode`'s.
        """
        d, h, w = image.shape[2:]
        output = self.decode(
            self.encode(image),
            image_size=(d, h, w),
            points=points,
            boxes=boxes,
            mask_inputs=mask_inputs,
            high_res_features=high_res_features,
        )
        return F.interpolate(output.low_res_logits, size=(d, h, w), mode="trilinear")
