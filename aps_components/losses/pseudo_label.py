"""Labels that a teacher makes for unlabelled volumes."""

from __future__ import annotations

import torch
from torch import Tensor

from aps_components.label_map import kept_pieces, likeliest_class
from aps_components.options import Pieces


@torch.no_grad()
def pseudo_label(logits: Tensor, *, largest_component: Pieces = True) -> Tensor:
    """The teacher's most likely class at each voxel.

    Args:
        logits: [B, C, D, H, W].
        largest_component: which pieces stay, see :func:`aps_components.label_map.kept_pieces`; the rest becomes
            background (Bai et al. 2023, arXiv:2305.00673). It runs on the CPU.
    Returns:
        Integers, [B, 1, D, H, W].
    """
    label = likeliest_class(logits, dim=1)
    if not largest_component:
        return label
    kept = [
        torch.from_numpy(kept_pieces(case, largest_component, num_classes=logits.shape[1]))
        for case in label[:, 0].to(torch.uint8).cpu().numpy()  # classes fit into it, and it travels fast from a GPU
    ]
    return torch.stack(kept).unsqueeze(1).to(label)
