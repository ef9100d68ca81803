"""Layer normalisation over the channels of a volume."""

from torch import Tensor
from torch.nn import functional as F

from ._segment_anything import LayerNorm2d


class LayerNorm3d(LayerNorm2d):
    """SAM's LayerNorm2d for volumes, with its state dict."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, D, H, W] over C at every voxel; same shape.

        One fused kernel on a channels-last view, where LayerNorm2d passes over the tensor six times.
        """
        normalised = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps)
        return normalised.movedim(-1, 1)
