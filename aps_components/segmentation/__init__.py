"""From scans on disk to label maps, figures and pictures, by a bundle's own inference."""

from aps_components.evaluation.preview import save_preview
from aps_components.segmentation.inputs import Case, Inputs, find_cases
from aps_components.segmentation.result_text import summary
from aps_components.segmentation.segment import Segmentation, segment
from aps_components.segmentation.statistics import class_statistics

__all__ = [
    "Case",
    "Inputs",
    "Segmentation",
    "class_statistics",
    "find_cases",
    "save_preview",
    "segment",
    "summary",
]
