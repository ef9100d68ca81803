"""Reports of a training, an evaluation and a segmentation: each one HTML file that needs no network."""

from aps_components.report.evaluation import write_evaluation_report
from aps_components.report.segmented import write_segmentation_report
from aps_components.report.training import write_training_report

__all__ = ["write_evaluation_report", "write_segmentation_report", "write_training_report"]
