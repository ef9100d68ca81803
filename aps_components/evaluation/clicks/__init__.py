"""What a click is worth: Dice and surface Dice against clicks, and whether the model obeys, looks and listens."""

from aps_components.evaluation.clicks.run import measure_clicks, report_clicks
from aps_components.evaluation.clicks.scan import Annotator

__all__ = ["Annotator", "measure_clicks", "report_clicks"]
