"""A trained model, loaded from its file, and the session in which a person corrects its answer."""

from aps_components.interactive.grid import ScanGrid
from aps_components.interactive.model import LoadedModel, load_model
from aps_components.interactive.predictor import Answer, Predictor
from aps_components.interactive.prompt_file import holds_a_persons_words, read_prompts
from aps_components.interactive.words import Words

__all__ = [
    "Answer",
    "LoadedModel",
    "Predictor",
    "ScanGrid",
    "Words",
    "holds_a_persons_words",
    "load_model",
    "read_prompts",
]
