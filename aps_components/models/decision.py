"""Where probability becomes a class: an offset of the logits that keeps the volumes right.

Soft Dice calls a voxel foreground if that is likelier than half the Dice that is reached (Lipton et al. 2014,
arXiv:1402.1892). In training that is the Dice of a small patch under dropout, far below that of a whole scan in
inference, so a network learns to take in too much: the volume bias of soft Dice (Bertels et al. 2021,
arXiv:2211.04161), who recommend to calibrate. In self-training pseudo-labels hand the bias on and it grows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from aps_components.label_map import likeliest_class


class Decision(nn.Module):
    """An offset for each foreground class of Models A and B, adjusted until both give labelled patches their volumes.

    An integral controller: each update moves an offset by ``step`` times the logarithm of true over predicted volume,
    both as sums over the last updates that fade by ``memory``. The prior of the pseudo-labels is thereby that of the
    labels, as ReMixMatch's distribution alignment does it for whole images (Berthelot et al. 2020, arXiv:1911.09785).

    Args:
        num_classes: C, background included, whose offset stays 0.
        step: of an update.
        memory: share of the volumes so far that an update keeps, in [0, 1).
        most: size of an offset that updates do not go beyond: a class that is not learned yet is not to be forced.
    """

    MODELS = ("a", "b")
    offsets: Tensor
    volumes: Tensor

    def __init__(self, num_classes: int, *, step: float = 0.5, memory: float = 0.8, most: float = 3.0) -> None:
        super().__init__()
        self.step, self.memory, self.most = step, memory, most
        self.register_buffer("offsets", torch.zeros(2, num_classes))
        self.register_buffer("volumes", torch.zeros(2, 2, num_classes))  # model, predicted or true, class

    def forward(self, logits: Tensor, model: str) -> Tensor:
        """Logits [B, C, D, H, W] of Model ``a`` or ``b`` with its offsets, in float32."""
        offsets = self.offsets[self.MODELS.index(model)]
        return logits.float() + offsets.view(1, -1, 1, 1, 1)

    def reset(self) -> None:
        """No offsets."""
        self.offsets.zero_()
        self.volumes.zero_()

    @torch.no_grad()
    def update(self, logits: Tensor, label: Tensor, model: str, *, undrawn: Tensor | None = None) -> None:
        """Adjust a model's offsets; in a distributed run all ranks by the patches of all.

        Args:
            logits: [B, C, D, H, W], with the offsets so far.
            label: the truth, integers, [B, 1, D, H, W]; voxels outside [0, C) have none and do not count.
            model: ``a`` or ``b``.
            undrawn: bool, [B, C or more]: classes that nobody drew in a patch, which then says nothing of their
                volumes; none where None.
        """
        index, classes = self.MODELS.index(model), self.offsets.shape[1]
        shares = _shares(likeliest_class(logits, dim=1), label, classes=classes, undrawn=undrawn)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(shares)
        told = shares[2] > 0
        volumes = self.memory * self.volumes[index] + shares[:2].to(self.volumes)
        self.volumes[index] = torch.where(told, volumes, self.volumes[index])
        predicted, true = self.volumes[index] + 1e-5  # a few voxels
        change = torch.where(told, self.step * (true / predicted).log().clamp(-1, 1), 0.0)
        self.offsets[index, 1:] = (self.offsets[index, 1:] + change[1:]).clamp(-self.most, self.most)

    @torch.no_grad()
    def fit(
        self, logits: Tensor, label: Tensor, model: str, *, undrawn: Tensor | None = None, rounds: int = 10
    ) -> Tensor:
        """Set a model's offsets at once, so that each class has its true volume in what is given.

        Class by class, the others' offsets given, the offset lies where as many voxels prefer the class as there are.

        Args:
            logits: [B, C, D, H, W], without offsets.
            label: the truth, [B, 1, D, H, W]. A class that it does not hold has no offset; voxels outside [0, C) have
                no truth and do not count.
            model: ``a`` or ``b``.
            undrawn: bool, [B, C, D, H, W]: classes that nobody drew there, whose volume these voxels do not tell; none
                where None.
            rounds: over the classes; two need one.
        Returns:
            The offsets, [C].
        """
        offsets = self.offsets[self.MODELS.index(model)].zero_()
        flat = logits.float().movedim(1, 0).flatten(1)  # [C, N]
        label = label.flatten()
        told = (label < len(flat)).expand_as(flat)
        if undrawn is not None:
            told = told & ~undrawn.movedim(1, 0).flatten(1)
        true = [int((label == index).sum()) for index in range(len(flat))]
        for _ in range(rounds if len(flat) > 2 else 1):
            for index in range(1, len(flat)):
                where = told[index]
                if 0 < true[index] < where.sum():
                    others = (flat + offsets[:, None])[:, where]
                    others[index] = -torch.inf
                    margin = flat[index, where] - others.amax(dim=0)
                    last, first_not = margin.topk(true[index] + 1).values[-2:]
                    offsets[index] = -(last + first_not) / 2
        return offsets

    def of_before(self, prefix: str) -> dict[str, Tensor]:
        """Its state in weights that were saved before there were offsets: none; ``prefix`` is before each name."""
        return {prefix + name: torch.zeros_like(value) for name, value in self.named_buffers()}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, value in self.of_before(prefix).items():
            state_dict.setdefault(name, value)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _shares(found: Tensor, label: Tensor, *, classes: int, undrawn: Tensor | None) -> Tensor:
    """Of each class in what was found and in the truth, and in how many patches it was drawn: [3, C]."""
    labeled = label < classes
    drawn = labeled.flatten(1).any(dim=1, keepdim=True).expand(-1, classes)
    drawn = (drawn if undrawn is None else drawn & ~undrawn[:, :classes]).float()
    counts = [
        torch.stack([torch.bincount(row[where], minlength=classes) for row, where in zip(each, labeled, strict=True)])
        for each in (found, label)
    ]
    total = labeled.sum().clamp_min(1)
    return torch.stack([*((count * drawn).sum(dim=0) / total for count in counts), drawn.sum(dim=0)])


def offsets_of_before(network: nn.Module) -> dict[str, Tensor]:
    """State of every :class:`Decision` of a network in weights that were saved without one."""
    state: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, Decision):
            state |= module.of_before(f"{name}.")
    return state
