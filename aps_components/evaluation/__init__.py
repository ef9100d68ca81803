"""Metrics of label maps, reports over cases, and pictures of one case."""

from aps_components.evaluation.evaluate import Evaluation
from aps_components.evaluation.figure import save_overview
from aps_components.evaluation.metrics import (
    ClassMetrics,
    SurfaceDistances,
    case_metrics,
    dice,
    jaccard,
    surface_distances,
)
from aps_components.evaluation.overview import overview_from_files
from aps_components.evaluation.report import EvaluationReport
from aps_components.evaluation.seen import unseen_items

__all__ = [
    "ClassMetrics",
    "Evaluation",
    "EvaluationReport",
    "SurfaceDistances",
    "case_metrics",
    "dice",
    "jaccard",
    "overview_from_files",
    "save_overview",
    "surface_distances",
    "unseen_items",
]
