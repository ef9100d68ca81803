"""SAM's two-way transformer between prompt tokens and the embedding of a volume.

Kirillov et al. 2023, "Segment Anything", arXiv:2304.02643.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ._segment_anything import Attention, TwoWayTransformer


class FusedAttention(Attention):
    """SAM's decoder attention, same parameters, through scaled_dot_product_attention."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q [B, Nq, E] to k and v [B, Nk, E]; [B, Nq, E]."""
        q = self._separate_heads(self.q_proj(q), self.num_heads)
        k = self._separate_heads(self.k_proj(k), self.num_heads)
        v = self._separate_heads(self.v_proj(v), self.num_heads)
        return self.out_proj(self._recombine_heads(F.scaled_dot_product_attention(q, k, v)))


class TwoWayTransformer3d(TwoWayTransformer):
    """SAM's TwoWayTransformer on volumes; it only ever sees flattened tokens, so its weights fit as they are.

    Args (of the constructor): those of segment_anything's TwoWayTransformer.
    """

    def __init__(self, *, depth: int, embedding_dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__(depth=depth, embedding_dim=embedding_dim, num_heads=num_heads, mlp_dim=mlp_dim)
        for module in [self, *self.layers]:
            _fuse_attention(module)

    def forward(self, image_embedding: Tensor, image_pe: Tensor, point_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Let tokens and volume attend to each other.

        Args:
            image_embedding: [B, E, d, h, w].
            image_pe: its positional encoding, [B or 1, E, d, h, w].
            point_embedding: tokens, [B, N, E].

        Returns:
            the tokens [B, N, E] and the volume's tokens [B, d * h * w, E].
        """
        return super().forward(_as_plane(image_embedding), _as_plane(image_pe), point_embedding)


def _as_plane(volume: Tensor) -> Tensor:
    """[B, E, d, h, w] -> [B, E, d * h * w, 1], which SAM flattens to the same tokens."""
    return volume.flatten(2).unsqueeze(-1)


def _fuse_attention(module: nn.Module) -> None:
    """Replace the attention layers that are direct children of a module."""
    for name, child in module.named_children():
        if isinstance(child, Attention):
            rate = child.embedding_dim // child.internal_dim
            setattr(module, name, FusedAttention(child.embedding_dim, child.num_heads, rate))
