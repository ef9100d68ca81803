"""Scans that a model was trained on are not evaluated, unless they are asked for by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aps_components.data.datalist import Item, case_name, files_of, refuse_same_names
from aps_components.data.identity import seen_items
from aps_components.models import trained_cases

TRAINING = "training"
SHOWN = 3
MEND = f"Give the datalist that it was trained with, or --split {TRAINING} for the scans it has seen"


def unseen_items(items: Sequence[Item], *, checkpoint: str | Path, split: str, mend: str = MEND) -> Sequence[Item]:
    """The items as they are, if the checkpoint was trained on none of their scans and each has a name of its own.

    Scans are known by their voxels: a copy, a link or another name does not hide one.

    Args:
        items: to evaluate on.
        checkpoint: whose settings say which scans it was trained on; without them nothing can be said.
        split: the part of the datalist that they are; ``training`` asks for seen ones.
        mend: what to do about seen ones.

    Raises:
        ValueError: it was, or two have the same name; which they are, and the mend.
    """
    if split == TRAINING:
        return items
    refuse_same_names(items)
    if seen := seen_items(items, trained_cases(checkpoint)):
        item, case, part = seen[0]
        names = ", ".join(case_name(item) for item, _, _ in seen[:SHOWN])
        more = f" and {len(seen) - SHOWN} more" if len(seen) > SHOWN else ""
        raise ValueError(
            f"{checkpoint} was trained on {len(seen)} of the {len(items)} {split} scans ({names}{more}): "
            f"{files_of(item['image'])[0]} was its {part} scan {case['name'] or case['image'][0]!r}. {mend}"
        )
    return items
