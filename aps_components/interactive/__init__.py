"""A trained model, loaded from its file, and the session in which a person corrects its answer."""

from aps_components.interactive.grid import ScanGrid
from aps_components.interactive.model import LoadedModel, load_model
from aps_components.interactive.predictor import Answer, Predictor

__all__ = ["Answer", "LoadedModel", "Predictor", "ScanGrid", "load_model"]
