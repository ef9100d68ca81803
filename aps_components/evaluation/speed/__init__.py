"""Sliding windows side by side: Dice against seconds."""

from aps_components.evaluation.speed.run import benchmark
from aps_components.evaluation.speed.settings import REFERENCE, REFERENCE_OVERLAP, Setting, grid, window_count
from aps_components.evaluation.speed.table import Comparison, Line

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
