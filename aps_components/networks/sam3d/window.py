"""Windows of a token grid, for local attention."""

import math

from torch import Tensor
from torch.nn import functional as F

from .grid import Size3d


def balanced_window(grid: Size3d, window_size: int) -> Size3d:
    """The smallest window that covers each axis in as few windows as `window_size` would.

    A grid of 10 under a window of 7 takes two windows of 5 and no padding, instead of two of 7 of which
    four tokens in fourteen are padding; over 14 x 14 x 10 that is 29 % of the tokens.

    Args:
        grid: (d, h, w), tokens.
        window_size: most tokens along an axis of a window.

    Returns:
        the window's (d, h, w), tokens.
    """
    d, h, w = (math.ceil(extent / math.ceil(extent / window_size)) for extent in grid)
    return d, h, w


def window_partition(x: Tensor, window: Size3d) -> Tensor:
    """Cut a token grid into windows, zero tokens padding the far ends, as SAM does in 2-D.

    Args:
        x: [B, d, h, w, C].
        window: (wd, wh, ww), tokens.

    Returns:
        [B * windows, wd, wh, ww, C].
    """
    wd, wh, ww = window
    pad = [-extent % edge for extent, edge in zip(x.shape[1:4], window, strict=True)]
    if any(pad):
        x = F.pad(x, (0, 0, 0, pad[2], 0, pad[1], 0, pad[0]))
    batch, d, h, w, channels = x.shape
    x = x.view(batch, d // wd, wd, h // wh, wh, w // ww, ww, channels)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, wd, wh, ww, channels)


def window_unpartition(windows: Tensor, grid: Size3d) -> Tensor:
    """Undo window_partition.

    Args:
        windows: [B * windows, wd, wh, ww, C].
        grid: (d, h, w) before partition, tokens.

    Returns:
        [B, d, h, w, C], the padding dropped.
    """
    wd, wh, ww, channels = windows.shape[1:]
    counts = [math.ceil(extent / edge) for extent, edge in zip(grid, (wd, wh, ww), strict=True)]
    x = windows.view(-1, *counts, wd, wh, ww, channels).permute(0, 1, 4, 2, 5, 3, 6, 7)
    x = x.reshape(-1, counts[0] * wd, counts[1] * wh, counts[2] * ww, channels)
    return x[:, : grid[0], : grid[1], : grid[2]]
