"""From a folder of scans to a complete bundle: rounds of training, decided by held-out scans (``aps train``)."""

from aps_components.recipe.from_scans import train
from aps_components.recipe.results import TrainingResults, read_results

__all__ = ["TrainingResults", "read_results", "train"]
