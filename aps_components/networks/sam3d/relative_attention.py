"""Self-attention over a 3-D token grid with decomposed relative positions.

Li et al. 2022, "MViTv2", arXiv:2112.01526, as used in SAM's image encoder, with a third axis.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .grid import Size3d
from .position_tables import resize_relative_table

_ALIGNMENT = 8  # flash kernels want head widths in multiples of eight


class RelativeAttention3d(nn.Module):
    """Multi-head self-attention whose scores are `scale * q.k + q.Rd + q.Rh + q.Rw`.

    R_axis is one learned vector for each offset along that axis. The sum of the three is itself a dot
    product: of the query's three rows of products with R, and the key's three one-hot indices. So both are
    appended to q and k, and the flash kernel computes the whole score; no tokens x tokens bias exists.
    """

    def __init__(self, dim: int, *, num_heads: int, grid: Size3d, key_stride: int = 1) -> None:
        """Make the layer; the relative positions start at zero, as SAM's do.

        Args:
            dim: channels of a token.
            num_heads: heads.
            grid: the token grid (d, h, w) that the tables of offsets are made for; on another grid they are
                interpolated.
            key_stride: merge cubes of this many tokens along an edge into one key and one value, their mean
                (pooling attention, MViTv2); a merged key's score is then the mean of its tokens' scores.

        Raises:
            ValueError: num_heads does not divide dim.
        """
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads {num_heads} must divide dim {dim}")
        self.num_heads = num_heads
        self.key_stride = key_stride
        self.head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_d = nn.Parameter(torch.zeros(2 * grid[0] - 1, self.head_dim))
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid[1] - 1, self.head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid[2] - 1, self.head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Attend among all tokens of a grid; [B, d, h, w, C] -> the same."""
        batch, d, h, w, channels = x.shape
        qkv = self.qkv(x).view(batch, d * h * w, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, N, head_dim] each
        rows = self._relative_rows(q, (d, h, w))
        columns = axis_indicators((d, h, w), like=q)
        if self.key_stride > 1:
            k, v, columns = (mean_over_cubes(each, (d, h, w), stride=self.key_stride) for each in (k, v, columns))
        spare = -(self.head_dim + d + h + w) % _ALIGNMENT
        q = torch.cat([q, *rows, q.new_zeros(*q.shape[:-1], spare)], dim=-1)
        k = torch.cat([k, F.pad(columns, (0, spare)).expand(*k.shape[:-1], -1)], dim=-1)
        # Flash takes q, k and v of one width only.
        v = F.pad(v, (0, q.shape[-1] - self.head_dim))
        out = F.scaled_dot_product_attention(q, k, v, scale=self.head_dim**-0.5)[..., : self.head_dim]
        return self.proj(out.transpose(1, 2).reshape(batch, d, h, w, channels))

    def _relative_rows(self, q: Tensor, grid: Size3d) -> list[Tensor]:
        """The products of each query with the relative positions of each axis.

        Args:
            q: [B, heads, N, head_dim].
            grid: (d, h, w) with d * h * w = N.

        Returns:
            [B, heads, N, d], [B, heads, N, h] and [B, heads, N, w], over the attention's scale.
        """
        d, h, w = grid
        unscale = self.head_dim**0.5  # attention scales q.k, and SAM adds the bias unscaled
        q = q.unflatten(2, grid)
        rows = (
            torch.einsum("bndhwc,dkc->bndhwk", q, relative_positions(self.rel_pos_d, d) * unscale),
            torch.einsum("bndhwc,hkc->bndhwk", q, relative_positions(self.rel_pos_h, h) * unscale),
            torch.einsum("bndhwc,wkc->bndhwk", q, relative_positions(self.rel_pos_w, w) * unscale),
        )
        return [row.flatten(2, 4).to(q.dtype) for row in rows]


def relative_positions(table: Tensor, size: int) -> Tensor:
    """Relative positions of every query and key along an axis, as SAM's get_rel_pos.

    Args:
        table: one row per offset, [L, C], the middle row for offset zero.
        size: tokens along the axis.

    Returns:
        [size, size, C], query by key.
    """
    table = resize_relative_table(table, 2 * size - 1)
    index = table.new_ones(size, dtype=torch.long).cumsum(0)  # a trace would keep arange's device
    return table[index[:, None] - index[None, :] + size - 1]


def axis_indicators(grid: Size3d, *, like: Tensor) -> Tensor:
    """One-hot indices of every token along d, h and w, of the dtype and on the device of ``like``; [N, d + h + w]."""
    eyes = [like.new_ones(extent).diag() for extent in grid]  # a trace would keep eye's device
    d, h, w = grid
    along = (
        eyes[0][:, None, None].expand(d, h, w, d),
        eyes[1][None, :, None].expand(d, h, w, h),
        eyes[2][None, None, :].expand(d, h, w, w),
    )
    return torch.cat(along, dim=-1).flatten(0, 2)


def mean_over_cubes(tokens: Tensor, grid: Size3d, *, stride: int) -> Tensor:
    """Average cubes of tokens, those at the far ends over the tokens that are there.

    Args:
        tokens: [..., N, C].
        grid: (d, h, w) with d * h * w = N.
        stride: tokens along the edge of a cube.

    Returns:
        [..., cubes, C].
    """
    d, h, w = grid
    volumes = tokens.reshape(-1, d, h, w, tokens.shape[-1]).movedim(-1, 1)
    edges = (min(stride, d), min(stride, h), min(stride, w))  # pooling refuses an edge beyond the volume
    pooled = F.avg_pool3d(volumes, edges, ceil_mode=True)
    return pooled.flatten(2).transpose(1, 2).reshape(*tokens.shape[:-2], -1, tokens.shape[-1])
