"""What a click is worth: Dice and surface Dice against clicks, and whether the model obeys, looks and listens."""

from aps_components.evaluation.clicks.run import measure_clicks

__all__ = ["measure_clicks"]
