"""Random Fourier features of positions in a volume.

Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional
Domains", arXiv:2006.10739.
"""

import torch
from torch import Tensor

from ._segment_anything import PositionEmbeddingRandom
from .grid import Size3d


class RandomFourierEncoding3d(PositionEmbeddingRandom):
    """SAM's positional encoding with three axes, in (d, h, w) order for points and grids alike.

    Always computed in float32: bf16 has eight bits of mantissa, too few to tell voxels apart.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_pos_feats: int, *, scale: float = 1.0) -> None:
        """Draw the frequencies.

        Args:
            num_pos_feats: frequencies; an encoding has twice as many channels.
            scale: standard deviation of the frequencies.
        """
        super().__init__(num_pos_feats, scale)
        self.positional_encoding_gaussian_matrix = scale * torch.randn(3, num_pos_feats)

    def forward(self, size: Size3d) -> Tensor:
        """Encode the centre of every cell of a grid (d, h, w); [E, d, h, w]."""
        ones = self.positional_encoding_gaussian_matrix.new_ones  # a trace would keep arange's device
        axes = [(ones(extent, dtype=torch.float32).cumsum(0) - 0.5) / extent for extent in size]
        positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)  # [d, h, w, 3]
        return self._encode(positions).permute(3, 0, 1, 2)

    def forward_with_coords(self, coords_input: Tensor, image_size: Size3d) -> Tensor:
        """Encode positions in voxels.

        Args:
            coords_input: [..., 3] in (d, h, w) order; the volume spans 0 to its size, so voxel i's centre
                is i + 0.5.
            image_size: (D, H, W), voxels.

        Returns:
            [..., E], float32.
        """
        coords = coords_input.float()
        return self._encode(coords / torch.cat([coords.new_full((1,), extent) for extent in image_size]))

    def _encode(self, positions: Tensor) -> Tensor:
        """Encode positions in [0, 1]^3; [..., 3] -> [..., E]."""
        with torch.autocast(positions.device.type, enabled=False):
            return self._pe_encoding(positions)
