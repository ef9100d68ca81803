"""A volume that is corrected by clicks, scribbles and boxes: the image is encoded once, a prompt costs a decoder.

An answer is changed where it was asked for and nowhere else: of what Model B would change, only the connected part
that holds the new prompt is taken, only towards the class that was said, and never what was said before. A box is
another question than a click (:meth:`InteractiveVolume._obey_box`): it holds a class that may not be there at all yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from aps_components.inference.boxed import TOUCHING, is_hardly, outer_parts, pieces_within, sides_of, spans
from aps_components.inference.inferer import PromptedSlidingWindowInferer, SeenVolume, Window
from aps_components.label_map import likeliest_class
from aps_components.models import AutoPromptSeg, TwoModels, as_tensors
from aps_components.networks.sam3d import Prompts
from aps_components.prompts import REACH, Box, Click, Scribble, UserPrompts, holds, with_moved_borders

CERTAIN = 0.99  # probability of what a user has said
Mask = NDArray[np.bool_]


class Automatic(NamedTuple):
    """The answer without a prompt."""

    probabilities: Tensor
    """[1, C, D, H, W]."""


class InteractiveVolume:
    """One volume, its answer so far and all that was said of it.

    Where Model A answers by itself, the first answer is inference's, and Model B sees a window when it is asked.

    Args:
        inputs: [1, in_channels, D, H, W], as the network sees it.
        network: in eval mode.
        inferer: with its windows.
        thorough: a prompt asks every window that holds it, and its mirror images where the inferer has some. Without,
            it asks the window that holds it deepest, as it is: one decoding.
    """

    def __init__(
        self,
        inputs: Tensor,
        network: TwoModels,
        inferer: PromptedSlidingWindowInferer,
        *,
        thorough: bool = True,
    ) -> None:
        self.network, self.inferer, self.thorough = network, inferer, thorough
        if network.predictor == "a":
            with torch.inference_mode():
                self.automatic = Automatic(inferer(inputs, network))
            self.seen = inferer.seen_when_asked(inputs, network, mirrored=thorough)
        else:
            self.seen = self.volume = inferer.see(inputs, network)
            answer = inferer.answer(self.seen, network, own=self.seen.points)
            self.automatic = Automatic(inferer.prediction(self.seen, answer, network).probabilities)
        self.reset()

    @cached_property
    def volume(self) -> SeenVolume:
        """All that there is to be seen of it, Model A's own points among it."""
        return self.inferer.see(self.seen.image[self.seen.inside], self.network)

    def reset(self, start: NDArray[np.integer] | None = None) -> None:
        """Back to the automatic answer, or on to another one; nothing was said.

        Args:
            start: classes, [D, H, W]; the automatic answer by default.
        """
        self.probabilities = self.automatic.probabilities.clone()
        if start is not None:
            classes = self.probabilities.shape[1]
            self.probabilities.fill_((1 - CERTAIN) / (classes - 1))
            self.probabilities.scatter_(
                1, torch.from_numpy(start.astype(np.int64))[None, None].to(self.device), CERTAIN
            )
        self.said = UserPrompts.none()
        self._named = np.full(self.seen.size, -1, dtype=np.int16)

    @property
    def device(self) -> torch.device:
        """Where the network answers."""
        return self.automatic.probabilities.device

    @property
    def label_map(self) -> Tensor:
        """The answer so far, [1, 1, D, H, W]."""
        return likeliest_class(self.probabilities, dim=1)

    def prompt(
        self,
        clicks: Sequence[Click] = (),
        *,
        boxes: Sequence[Box] = (),
        scribbles: Sequence[Scribble] = (),
    ) -> Tensor:
        """Take new prompts into account, all classes at once; of contradicting ones on a voxel the later one counts.

        Args:
            clicks: in voxels of the volume.
            boxes: both corners inside.
            scribbles: voxels along lines.

        Returns:
            the new probabilities, [1, C, D, H, W].
        """
        earlier = list(self.said.clicks)
        self._remember(clicks, boxes, scribbles)
        new = UserPrompts(list(clicks), [], list(scribbles))
        if marks := new.marks:
            proposed = self._ask(new, previous=self._moved(clicks, scribbles=scribbles, said=earlier))
            former, wanted = self._classes(self.probabilities), self._classes(proposed)
            for label in sorted({mark.label for mark in marks}):
                voxels = [mark.voxel for mark in marks if mark.label == label]
                turned = (wanted == label) & (former != label) & (self._named < 0)
                self._take(_pieces_at(turned, voxels), proposed)
        for box in boxes:
            self._obey_box(box)
        self._keep_said()
        return self.probabilities

    def _obey_box(self, box: Box) -> None:
        """Within a box voxels take its class, and nothing else changes.

        1. Where a class of the foreground reaches the sides of a large box already, the box says nothing new.
        2. Else Model B's answer to the box alone is taken, without the earlier answer: that is how training
           draws boxes. Where some of the class is there already, parts alone count that reach out towards the box's
           sides, and not thin ones: what Model B thinks of a border is worth less than that border. Training draws no
           box of the background: pieces that end in the box go.
        3. In a small one, and where the class is hardly there after that, the border moves past the voxel of the box
           that is deepest in other classes, as it moves past a click: it sees as far as a small box is wide, and knows
           the image better there.
        """
        inside = np.zeros_like(self._named, dtype=bool)
        inside[sides_of(box)] = True
        own = self._of(box.label)
        if not box.label and (ending := pieces_within(~own, inside)).any():
            self._turn(ending, box.label)
            return
        small = self._is_small(box)
        if box.label and not small:
            if spans(own[sides_of(box)]):
                return
            proposed = self._ask(UserPrompts([], [box], []), previous=None)
            new = inside & ~own & (self._classes(proposed) == box.label)
            self._turn_towards(box.label, proposed, new if is_hardly(own[inside]) else outer_parts(new, own & inside))
        now = self._of(box.label)
        if not box.label or small or is_hardly(now[inside]):
            self._move_into(inside & ~now, box.label)

    def _move_into(self, region: Mask, label: int) -> None:
        """The border of a class moves past the deepest voxel of a region, within it."""
        if (deepest := self._deepest(region)) is not None:
            self._turn_towards(label, self._moved([Click(label, deepest)], said=self.said.clicks), region)

    def _of(self, label: int) -> Mask:
        """Where the answer so far has a class, [D, H, W]."""
        return self._classes(self.probabilities) == label

    def _is_small(self, box: Box) -> bool:
        """Whether what moves borders sees all of it from its middle."""
        lengths = [high - low + 1 for low, high in zip(box.least, box.greatest, strict=True)]
        return max(length * step for length, step in zip(lengths, self._spacing, strict=True)) <= 2 * REACH

    def _moved(
        self, clicks: Sequence[Click], *, scribbles: Sequence[Scribble] = (), said: Sequence[Click] = ()
    ) -> Tensor:
        """The answer so far with the borders moved past what is new, [1, C, D, H, W]."""
        image = self.seen.image[self.seen.inside][0]
        return with_moved_borders(
            self.probabilities[0], clicks, scribbles=scribbles, image=image, said=said, spacing=self._spacing
        )[None]

    @property
    def _spacing(self) -> Sequence[float]:
        return cast(AutoPromptSeg, self.network).model_b.relative_spacing  # no other takes prompts

    @staticmethod
    def _classes(probabilities: Tensor) -> NDArray[np.integer]:
        """[D, H, W]."""
        return np.asarray(likeliest_class(probabilities, dim=1)[0, 0].cpu().numpy())

    def _deepest(self, region: Mask) -> tuple[int, int, int] | None:
        """The voxel that is furthest inside a region, the volume's rim counting as one; None in an empty one."""
        if not (region := region & (self._named < 0)).any():
            return None
        depth = ndimage.distance_transform_edt(np.pad(region, 1), sampling=self._spacing)[1:-1, 1:-1, 1:-1]
        d, h, w = (int(index) for index in np.unravel_index(int(depth.argmax()), region.shape))
        return d, h, w

    def _turn_towards(self, label: int, proposed: Tensor, region: Mask) -> None:
        """What is proposed to be of a class, in a region, where nobody has named another one."""
        turned = (self._classes(proposed) == label) & (self._classes(self.probabilities) != label)
        self._take(turned & region & (self._named < 0), proposed)

    def _turn(self, region: Mask, label: int) -> None:
        """A class for certain, in a region, where nobody has named another one."""
        certain = torch.full_like(self.probabilities, (1 - CERTAIN) / (self.probabilities.shape[1] - 1))
        certain[:, label] = CERTAIN
        self._take(region & (self._named < 0), certain)

    def _remember(self, clicks: Sequence[Click], boxes: Sequence[Box], scribbles: Sequence[Scribble]) -> None:
        """A later word on a voxel takes the place of an earlier one, also within one call: scribbles, then clicks."""
        for line in scribbles:
            for voxel in line.voxels:
                self._named[voxel] = line.label
        for click in clicks:
            self._named[click.voxel] = click.label
        held = [click for click in (*self.said.clicks, *clicks) if self._named[click.voxel] == click.label]
        lines = [
            line._replace(voxels=[voxel for voxel in line.voxels if self._named[voxel] == line.label])
            for line in (*self.said.scribbles, *scribbles)
        ]
        self.said = UserPrompts(list(dict.fromkeys(held)), [*self.said.boxes, *boxes], lines)

    def _ask(self, new: UserPrompts, *, previous: Tensor | None) -> Tensor:
        """Model B's correction of a previous answer around the new prompts, that answer elsewhere; without one, what it
        makes of the new prompts alone.

        Model A's own points are left out: the present answer holds what they say, and a person knows better.
        """
        of_marks = {index for mark in new.marks for index in self._windows_at(mark.voxel)}
        of_boxes = {index for index, window in enumerate(self.seen.windows) for box in new.boxes if _meets(window, box)}
        windows = sorted(of_marks | of_boxes)
        answer = self.inferer.answer(
            self.seen,
            self.network,
            given=lambda window: self._part(new if previous is None else self.said, window),
            asked=lambda window: self._part(new, window),
            previous=None if previous is None else self._padded(previous),
            windows=windows,
            mirrored=self.thorough,
        )
        answer = answer[self.seen.inside]
        elsewhere = self.probabilities if previous is None else previous
        return torch.where(answer.sum(dim=1, keepdim=True) > 0, answer, elsewhere)

    def _windows_at(self, place: Sequence[int]) -> list[int]:
        """Those that hold a voxel; the one that holds it deepest alone, unless it is to be thorough."""
        windows = self.seen.windows
        held = [index for index, window in enumerate(windows) if holds(window, place)]
        return held if self.thorough else [max(held, key=lambda index: _depth(windows[index], place, self.seen.size))]

    def _part(self, said: UserPrompts, window: Window) -> Prompts:
        """What was said within a window, as the network takes it."""
        return as_tensors([said.within(window)], device=self.probabilities.device)

    def _take(self, region: Mask, proposed: Tensor) -> None:
        """The proposed probabilities in a region."""
        if region.any():
            where = torch.from_numpy(region).to(self.probabilities.device)
            self.probabilities = torch.where(where, proposed, self.probabilities)

    def _keep_said(self) -> None:
        """What a user has named has that class."""
        answered = self.label_map[0, 0].cpu().numpy()
        self.probabilities = self.probabilities.clone()  # who keeps the former ones is not to see them change
        places = np.nonzero((self._named >= 0) & (self._named != answered))
        d, h, w = (torch.from_numpy(axis).to(self.device) for axis in places)
        named = torch.from_numpy(self._named[places].astype(np.int64)).to(self.device)
        self.probabilities[0, :, d, h, w] = (1 - CERTAIN) / (self.probabilities.shape[1] - 1)
        self.probabilities[0, named, d, h, w] = CERTAIN

    def _padded(self, maps: Tensor) -> Tensor:
        """To the padded volume; beyond it is background."""
        size = self.seen.image.shape[2:]
        padded = torch.zeros(1, maps.shape[1], *size, device=maps.device)
        padded[:, 0] = 1
        padded[self.seen.inside] = maps
        return padded


def _pieces_at(mask: Mask, voxels: Sequence[tuple[int, int, int]]) -> Mask:
    """The connected pieces of a mask that hold one of the voxels, or touch one."""
    pieces, _ = ndimage.label(mask, structure=TOUCHING)
    held: set[int] = set()
    for voxel in voxels:
        around = tuple(slice(max(index - 1, 0), index + 2) for index in voxel)
        held |= set(np.unique(pieces[around]).tolist())
    return np.isin(pieces, sorted(held - {0}))


def _depth(window: Window, voxel: Sequence[int], size: Sequence[int]) -> float:
    """How far a voxel is from the rim of a window, as a share of its sides; the volume's own rim is none."""
    depths = [1.0]
    for index, side, extent in zip(voxel, window, size, strict=True):
        length = side.stop - side.start
        if side.start > 0:
            depths.append((index - side.start) / length)
        if side.stop < extent:
            depths.append((side.stop - 1 - index) / length)
    return min(depths)


def _meets(window: Window, box: Box) -> bool:
    """Whether a part of the box lies in the window."""
    return all(
        low < side.stop and high >= side.start for low, high, side in zip(box.least, box.greatest, window, strict=True)
    )
