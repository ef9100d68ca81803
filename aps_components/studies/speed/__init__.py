"""Sliding windows side by side: Dice against seconds."""

from aps_components.studies.speed.run import benchmark
from aps_components.studies.speed.settings import REFERENCE, REFERENCE_OVERLAP, Setting, grid, window_count
from aps_components.studies.speed.table import Comparison, Line

__all__ = [
    "REFERENCE",
    "REFERENCE_OVERLAP",
    "Comparison",
    "Line",
    "Setting",
    "benchmark",
    "grid",
    "window_count",
]
