"""An answer after clicks, before Model B looks at it: the border of a click's class moves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aps_components.label_map import likeliest_class
from aps_components.prompts.border_network import border_network, learned_border
from aps_components.prompts.moved_border import MovedBorder, moved_border
from aps_components.prompts.simulated import Click

LIKELY = 0.75  # probability of the click's class in there: Model B may still think otherwise


def with_moved_borders(
    probabilities: Tensor,
    clicks: Sequence[Click],
    *,
    image: Tensor | None = None,
    said: Sequence[Click] = (),
    spacing: Sequence[float] = (1, 1, 1),
) -> Tensor:
    """The same answer with the border moved past every click, one after the other.

    Args:
        probabilities: [C, D, H, W], of the classes.
        clicks: inside the volume.
        image: [M, D, H, W], as the segmenting network sees it; without one the border moves by geometry alone.
        said: clicks before these.
        spacing: size of a voxel along each axis, in units of the finest.
    """
    moved = probabilities.clone()
    answer = likeliest_class(moved, dim=0)[0].cpu().numpy()
    seen = None if image is None else image.float().cpu().numpy()
    earlier = list(said)

    def border(click: Click) -> MovedBorder:
        if seen is None:
            return moved_border(answer, click, spacing=spacing)
        network = border_network(str(probabilities.device))
        present = moved.float().cpu().numpy()
        return learned_border(seen, present, answer, click, said=earlier, spacing=spacing, network=network)

    for click in clicks:
        box, inside = border(click)
        new = inside & (answer[box] != click.label)
        answer[box][new] = click.label
        part = moved[(slice(None), *box)]
        told = part * ((1 - LIKELY) / (1 - part[click.label]).clamp_min(1e-6))
        told[click.label] = LIKELY
        part.copy_(torch.where(torch.from_numpy(new).to(part.device), told, part))
        earlier.append(click)
    return moved
