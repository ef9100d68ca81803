"""What the uncertainty of a model is worth: does it find errors, answer to noise and labels, and are prompts right?"""

from aps_components.studies.uncertainty.maps import every_map
from aps_components.studies.uncertainty.measures import ErrorRanking
from aps_components.studies.uncertainty.run import check_uncertainty

__all__ = ["ErrorRanking", "check_uncertainty", "every_map"]
