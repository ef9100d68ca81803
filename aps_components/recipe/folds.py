"""Which labelled scans are kept apart together: each once, and those of one patient never in two folds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from aps_components.data.drawn import drawn


def make_folds(patients: Mapping[str, str], count: int, *, seed: int = 0) -> list[list[str]]:
    """Divide scans into folds of about equal size, by patient.

    The largest patients are dealt first, each to the fold that has the fewest scans; of equally large ones, names and
    seed decide.

    Args:
        patients: of each scan, by the scan's name.
        count: of the folds.
        seed: of the draw.

    Returns:
        Names of the scans of each fold, sorted; no fold is empty.

    Raises:
        ValueError: fewer than two folds, or fewer patients than folds.
    """
    scans_of: defaultdict[str, list[str]] = defaultdict(list)
    for scan, patient in patients.items():
        scans_of[patient].append(scan)
    if not 2 <= count <= len(scans_of):
        raise ValueError(f"{len(scans_of)} patient(s) cannot be divided into {count} folds")
    order = sorted(scans_of, key=lambda patient: (-len(scans_of[patient]), drawn(patient, seed=seed)))
    folds: list[list[str]] = [[] for _ in range(count)]
    for patient in order:
        min(folds, key=len).extend(scans_of[patient])
    return [sorted(fold) for fold in folds]


def most_even(folds: Sequence[list[str]], count: int) -> list[list[str]]:
    """The ``count`` folds whose sizes are nearest to the mean, in the order in which they are."""
    mean = sum(map(len, folds)) / len(folds)
    nearest = sorted(range(len(folds)), key=lambda index: abs(len(folds[index]) - mean))
    return [folds[index] for index in sorted(nearest[:count])]
