"""Learned positions of tokens, for a grid of another size than they were learned on.

As ViT resizes its position embeddings for images of another size (Dosovitskiy et al. 2021, arXiv:2010.11929, section
3.2), and SAM its relative positions (segment_anything's ``get_rel_pos``).
"""

import re
import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from .grid import Size3d

_EMBEDDING = re.compile(r"(.*\.)?image_encoder\.pos_embed")
_RELATIVE = re.compile(r"(.*\.)?image_encoder\.blocks\.\d+\.attn\.rel_pos_[dhw]")


def resize_position_embedding(table: Tensor, grid: Size3d) -> Tensor:
    """Interpolate an absolute position embedding; [1, d', h', w', E] -> [1, d, h, w, E]."""
    if table.shape[1:4] == grid:
        return table
    return F.interpolate(table.movedim(-1, 1), size=grid, mode="trilinear").movedim(1, -1)


def resize_relative_table(table: Tensor, length: int) -> Tensor:
    """Interpolate a table of offsets linearly; [L, C] -> [length, C]. Offset zero stays in the middle."""
    if len(table) == length:
        return table
    return F.interpolate(table.T[None], size=length, mode="linear")[0].T


def resized_position_tables(weights: Mapping[str, Tensor], *, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with their position tables as large as those of another network.

    That network then computes on its own grid what the weights' network computes there, which interpolates its tables
    on the fly.

    Args:
        weights: a state dict with an image encoder's tables in it, of any number of modules around it.
        like: the other network's state dict.

    Returns:
        the same tensors by name, but for the tables that differ in size. A table of another width, or that the
        other network does not have, stays as it is.
    """
    return {name: _resized(name, value, like[name]) if name in like else value for name, value in weights.items()}


def fitting_tables(encoder: nn.Module, weights: Mapping[str, Any], *, prefix: str) -> dict[str, Tensor]:
    """The position tables of weights that are about to be loaded into an image encoder, as large as its own.

    MONAI's ``copy_model_state``, and so ``monai.bundle.load``, leaves out what has another shape without a word: it
    hands an encoder its own tables back, with everything else from the file. Then those of the file are taken.

    Args:
        encoder: an image encoder.
        weights: a state dict that holds the encoder's.
        prefix: of the encoder's names in it.

    Returns:
        Those that differ in size from the encoder's, by their names in ``weights``.
    """
    own = {f"image_encoder.{name}": value for name, value in encoder.state_dict().items()}
    given = {name: weights.get(prefix + name.removeprefix("image_encoder.")) for name in own}
    is_own = {name: _is_the_same(value, own[name]) for name, value in given.items()}
    if any(is_own.values()) and not all(is_own.values()):
        given |= {name: _left_out(prefix + name.removeprefix("image_encoder.")) for name in own if is_own[name]}
    tables = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    resized = resized_position_tables(tables, like=own)
    return {
        prefix + name.removeprefix("image_encoder."): table
        for name, table in resized.items()
        if table is not tables[name] or is_own[name]
    }


def _is_the_same(given: Any, own: Tensor) -> bool:
    return isinstance(given, Tensor) and given.data_ptr() == own.data_ptr()


def _left_out(name: str) -> Tensor | None:
    """What ``copy_model_state`` was given by this name; None where that did not call."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "copy_model_state":
            return frame.f_locals.get("src_dict", {}).get(name)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _resized(name: str, table: Tensor, wanted: Tensor) -> Tensor:
    if table.shape == wanted.shape or table.dim() != wanted.dim() or table.shape[-1:] != wanted.shape[-1:]:
        return table
    if _EMBEDDING.fullmatch(name):
        d, h, w = wanted.shape[1:4]
        return resize_position_embedding(table.float(), (d, h, w))
    if _RELATIVE.fullmatch(name):
        return resize_relative_table(table.float(), len(wanted))
    return table
