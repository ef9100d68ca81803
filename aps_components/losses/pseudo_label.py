"""Labels that a teacher makes for unlabelled volumes."""

from __future__ import annotations

import torch
from torch import Tensor

from aps_components.label_map import keep_largest_component, likeliest_class


@torch.no_grad()
def pseudo_label(logits: Tensor, *, largest_component: bool = True) -> Tensor:
    """The teacher's most likely class at each voxel.

    Args:
        logits: [B, C, D, H, W].
        largest_component: keep the largest connected part of each foreground class and call the rest background (Bai et
            al. 2023, arXiv:2305.00673): for organs in one piece. It runs on the CPU.
    Returns:
        Integers, [B, 1, D, H, W].
    """
    label = likeliest_class(logits, dim=1)
    if not largest_component:
        return label
    kept = [
        torch.from_numpy(keep_largest_component(case, num_classes=logits.shape[1]))
        for case in label[:, 0].to(torch.uint8).cpu().numpy()  # classes fit into it, and it travels fast from a GPU
    ]
    return torch.stack(kept).unsqueeze(1).to(label)
