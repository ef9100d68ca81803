"""What the uncertainty of a model is worth: does it find errors, answer to noise and labels, and are prompts right?"""

from aps_components.evaluation.uncertainty.maps import DEFINITIONS, every_map, propagated_variance, surface_band
from aps_components.evaluation.uncertainty.measures import Calibration, ErrorRanking
from aps_components.evaluation.uncertainty.run import check_uncertainty

__all__ = [
    "DEFINITIONS",
    "Calibration",
    "ErrorRanking",
    "check_uncertainty",
    "every_map",
    "propagated_variance",
    "surface_band",
]
