"""An answer after clicks and scribbles, before Model B looks at it: the border of the class that was said moves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aps_components.label_map import likeliest_class
from aps_components.prompts.border_maps import needed_part
from aps_components.prompts.border_network import border_network, learned_border
from aps_components.prompts.moved_border import MovedBorder, moved_border
from aps_components.prompts.scribbled import moves_past
from aps_components.prompts.simulated import Click, Scribble
from aps_components.prompts.user import UserPrompts

LIKELY = 0.75  # probability of the click's class in there: Model B may still think otherwise


def with_moved_borders(
    probabilities: Tensor,
    clicks: Sequence[Click],
    *,
    scribbles: Sequence[Scribble] = (),
    image: Tensor | None = None,
    said: Sequence[Click] = (),
    spacing: Sequence[float] = (1, 1, 1),
) -> Tensor:
    """The same answer with the border moved past every scribble and every click, one after the other.

    A scribble is a row of clicks (:mod:`aps_components.prompts.scribbled`): the border moves past the voxels of it that
    are deepest in another class. What lies far beside it does not change.

    Args:
        probabilities: [C, D, H, W], of the classes.
        clicks: inside the volume.
        scribbles: likewise.
        image: [M, D, H, W], as the segmenting network sees it; without one the border moves by geometry alone.
        said: clicks before these.
        spacing: size of a voxel along each axis, in units of the finest.
    """
    moved = probabilities.clone()
    answer = likeliest_class(moved, dim=0)[0].cpu().numpy()
    earlier = list(said)

    def border(click: Click) -> MovedBorder:
        if image is None:
            return moved_border(answer, click, spacing=spacing)
        return _learned(image, moved, answer, click, said=earlier, spacing=spacing)

    along = moves_past(scribbles, answer, said=earlier, spacing=spacing)
    for click, region in chain(along, ((click, None) for click in clicks)):
        box, inside = border(click)
        new = inside & (answer[box] != click.label)
        if region is not None:
            new &= region.on(box, new.shape)
        answer[box][new] = click.label
        part = moved[(slice(None), *box)]
        told = part * ((1 - LIKELY) / (1 - part[click.label]).clamp_min(1e-6))
        told[click.label] = LIKELY
        part.copy_(torch.where(torch.from_numpy(new).to(part.device), told, part))
        earlier.append(click)
    return moved


def _learned(
    image: Tensor,
    probabilities: Tensor,
    answer: NDArray[np.integer],
    click: Click,
    *,
    said: Sequence[Click],
    spacing: Sequence[float],
) -> MovedBorder:
    """``learned_border`` of the part of the volume that it depends on, which alone leaves a GPU."""
    part = needed_part(click.voxel, extent=answer.shape, spacing=spacing)

    asked, *earlier = UserPrompts([click, *said], [], []).within(part).clicks
    here = (slice(None), *part)
    box, inside = learned_border(
        image[here].float().cpu().numpy(),
        probabilities[here].float().cpu().numpy(),
        answer[part],
        asked,
        said=earlier,
        spacing=spacing,
        network=border_network(str(probabilities.device)),
    )
    d, h, w = (slice(side.start + inner.start, side.start + inner.stop) for side, inner in zip(part, box, strict=True))
    return MovedBorder((d, h, w), inside)
