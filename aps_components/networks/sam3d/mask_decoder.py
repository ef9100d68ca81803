"""From an image embedding and prompts to one mask per class.

After SAM's mask decoder (Kirillov et al. 2023, arXiv:2304.02643): one mask token per class instead of one per
guess at an ambiguous prompt, and fine features added on the way up as in SAM 2 (Ravi et al. 2024,
arXiv:2408.00714).
"""

import itertools
import math

import torch
from torch import Tensor, nn

from ._segment_anything import MLP
from .layer_norm import LayerNorm3d

HighResFeatures = tuple[Tensor, Tensor]


class ClassMlps(nn.Module):
    """One MLP per class, with ReLU between layers, all run at once as batched products."""

    def __init__(
        self, num_classes: int, *, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int = 3
    ) -> None:
        super().__init__()
        widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        sizes = list(itertools.pairwise(widths))
        self.weights = nn.ParameterList(_uniform(num_classes, out, n, fan_in=n) for n, out in sizes)
        self.biases = nn.ParameterList(_uniform(num_classes, out, fan_in=n) for n, out in sizes)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, input_dim] -> [B, C, output_dim], class c through MLP c."""
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.einsum("bci,coi->bco", x if index == 0 else x.relu(), weight) + bias
        return x


class MaskDecoder3d(nn.Module):
    """Predicts every class's mask at 1/2 of the volume, and how good each is."""

    def __init__(
        self,
        transformer_dim: int,
        transformer: nn.Module,
        *,
        num_classes: int,
        high_res_channels: tuple[int, int] | None = None,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
    ) -> None:
        """Make the decoder.

        Args:
            transformer_dim: channels of the tokens and of the image embedding; a multiple of 8.
            transformer: a two-way transformer of that width.
            num_classes: classes, background included.
            high_res_channels: channels of fine features at 1/4 and at 1/2 of the volume; None for none.
            iou_head_depth: layers of the IoU head.
            iou_head_hidden_dim: hidden width of the IoU head.

        Raises:
            ValueError: transformer_dim is not a multiple of 8.
        """
        super().__init__()
        if transformer_dim % 8:
            raise ValueError(f"transformer_dim {transformer_dim} must be divisible by 8")
        quarter_dim, half_dim = transformer_dim // 4, transformer_dim // 8
        self.num_classes = num_classes
        self.transformer = transformer
        self.iou_token = nn.Embedding(1, transformer_dim)
        self.mask_tokens = nn.Embedding(num_classes, transformer_dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose3d(transformer_dim, quarter_dim, kernel_size=2, stride=2),
            LayerNorm3d(quarter_dim),
            nn.GELU(),
            nn.ConvTranspose3d(quarter_dim, half_dim, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.high_res_projections: nn.ModuleList | None = None
        if high_res_channels is not None:
            quarter_in, half_in = high_res_channels
            self.high_res_projections = nn.ModuleList(
                [nn.Conv3d(quarter_in, quarter_dim, 1), nn.Conv3d(half_in, half_dim, 1)]
            )
        self.output_hypernetworks_mlps = ClassMlps(
            num_classes, input_dim=transformer_dim, hidden_dim=transformer_dim, output_dim=half_dim
        )
        self.iou_prediction_head = MLP(transformer_dim, iou_head_hidden_dim, num_classes, iou_head_depth)

    def forward(
        self,
        image_embedding: Tensor,
        image_pe: Tensor,
        *,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        high_res_features: HighResFeatures | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict masks; every item of the batch has its own volume and its own prompts.

        Args:
            image_embedding: [B, E, d, h, w].
            image_pe: positional encoding of its cells, [1, E, d, h, w].
            sparse_prompt_embeddings: [B, N, E].
            dense_prompt_embeddings: [B, E, d, h, w].
            high_res_features: [B, F4, 2d, 2h, 2w] and [B, F2, 4d, 4h, 4w], if the decoder was made for them.

        Returns:
            low_res_logits [B, C, 4d, 4h, 4w] and iou_predictions [B, C] in (0, 1).

        Raises:
            ValueError: high_res_features are given and not expected, or the reverse.
        """
        batch, channels, d, h, w = image_embedding.shape
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(batch, -1, -1)
        tokens = torch.cat([tokens, sparse_prompt_embeddings], dim=1)
        tokens, voxels = self.transformer(image_embedding + dense_prompt_embeddings, image_pe, tokens)
        upscaled = self._upscale(voxels.transpose(1, 2).view(batch, channels, d, h, w), high_res_features)
        hyper = self.output_hypernetworks_mlps(tokens[:, 1 : 1 + self.num_classes])  # [B, C, E/8]
        # Channels last, as LayerNorm3d leaves them: the product and its gradient then need no transposed copy.
        low_res_logits = (upscaled.movedim(1, -1).flatten(1, 3) @ hyper.mT).mT.unflatten(2, upscaled.shape[2:])
        return low_res_logits, self.iou_prediction_head(tokens[:, 0]).sigmoid()

    def _upscale(self, x: Tensor, high_res_features: HighResFeatures | None) -> Tensor:
        """[B, E, d, h, w] -> [B, E/8, 4d, 4h, 4w]."""
        if (high_res_features is None) != (self.high_res_projections is None):
            raise ValueError(
                f"high_res_features given: {high_res_features is not None}, "
                f"decoder made for them: {self.high_res_projections is not None}; set high_res_channels to match"
            )
        if high_res_features is None or self.high_res_projections is None:
            return self.output_upscaling(x)
        to_quarter, norm, activation, to_half, last_activation = self.output_upscaling
        from_quarter, from_half = self.high_res_projections
        x = activation(norm(to_quarter(x) + from_quarter(high_res_features[0])))
        return last_activation(to_half(x) + from_half(high_res_features[1]))


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """A parameter drawn as nn.Linear draws its weights and biases."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
