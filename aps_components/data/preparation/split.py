"""Splits fixed by the cases' names: the same on every machine, in whatever order the files are listed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from aps_components.data.drawn import drawn
from aps_components.data.errors import DataError
from aps_components.data.preparation.cases import RawCase, Split


def shuffled(cases: Iterable[RawCase], *, seed: int) -> list[RawCase]:
    """The cases ordered by the SHA-256 of "seed:name"."""
    return sorted(cases, key=lambda case: drawn(case.name, seed=seed))


def rule_of(seed: int) -> str:
    """How `shuffled` orders, in words."""
    return f'cases with a label ordered by the SHA-256 of "{seed}:NAME"'


def shares(count: int, published: Sequence[int]) -> list[int]:
    """Divide `count` in the proportions of `published`; the first part takes what rounding leaves.

    Every other part gets at least one case if there is one for each part.
    """
    total, floor = sum(published), int(count >= len(published))
    others = [max(round(count * size / total), floor) if size else 0 for size in published[1:]]
    return [count - sum(others), *others]


def divide(
    cases: Iterable[RawCase], *, published: Mapping[str, int], seed: int, validation: int | None, name: str
) -> Split:
    """Cut the cases with a label into the parts of a published split; those without go to "unlabeled".

    Args:
        cases: in any order.
        published: part -> its number of cases, "training" first. Where there are more or fewer cases altogether, its
            proportions hold.
        seed: of the order.
        validation: number of validation cases, instead of the published one.
        name: of the published split, for the note.
    """
    ordered = shuffled(cases, seed=seed)
    labelled = [case for case in ordered if case.label]
    counts = dict(zip(published, shares(len(labelled), list(published.values())), strict=True))
    notes = []
    if len(labelled) != sum(published.values()):
        sizes = "/".join(str(size) for size in published.values())
        notes.append(
            f"{len(labelled)} case(s) with a label where the split {name} ({sizes} {', '.join(published)}) "
            f"has {sum(published.values())}: divided in its proportions"
        )
    parts: dict[str, list[RawCase]] = {"training": labelled}
    if "test" in counts:
        parts |= _take_last(parts["training"], counts["test"], "test")
    wanted = counts.get("validation", 0) if validation is None else validation
    parts |= _take_last(parts["training"], wanted, "validation")
    parts["unlabeled"] = [case for case in ordered if not case.label]
    return Split(parts, rule_of(seed), notes=notes)


def take_validation(split: Split, count: int) -> Split:
    """Move the last `count` training cases to "validation"."""
    return replace(split, parts=split.parts | _take_last(split.parts["training"], count, "validation"))


def hide_labels(split: Split, labeled: int | None) -> Split:
    """Keep the labels of the first `labeled` training cases alone; the others become "unlabeled" and lose theirs."""
    training, unlabeled = split.parts["training"], split.parts.get("unlabeled", [])
    if labeled is not None and not 1 <= labeled <= len(training):
        raise DataError(
            f"labeled {labeled} is outside 1 to {len(training)}, the training cases with a label that validation and "
            "test leave; give another --labeled"
        )
    kept = len(training) if labeled is None else labeled
    hidden = [case.without_label() for case in [*training[kept:], *unlabeled]]
    return replace(split, parts=split.parts | {"training": training[:kept], "unlabeled": hidden})


def digest(parts: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 of a split: of the case names of each part, in order."""
    content = json.dumps({part: list(names) for part, names in parts.items()}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _take_last(cases: list[RawCase], count: int, part: str) -> dict[str, list[RawCase]]:
    """The training part without its last `count` cases, and these as `part`; one training case must be left."""
    if not 0 <= count <= max(len(cases) - 1, 0):
        raise DataError(
            f"{part} {count} is outside 0 to {max(len(cases) - 1, 0)}: {len(cases)} training case(s) with a label are "
            f"there; give another --{part}"
        )
    cut = len(cases) - count
    return {"training": cases[:cut], part: cases[cut:]}
