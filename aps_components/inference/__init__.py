"""Whole volumes in, label maps out."""

from aps_components.inference.evaluator import PromptedEvaluator
from aps_components.inference.inferer import PromptedSlidingWindowInferer, PromptPoint, VolumePrediction
from aps_components.inference.postprocessing import (
    InvertToLabelMapd,
    KeepProbabilitiesd,
    LabelMapd,
    SavePromptsd,
    inverted,
)
from aps_components.inference.prompt_file import prompts_in_world
from aps_components.inference.saving import SaveOnScansGridd, SaveUncertaintyd

__all__ = [
    "InvertToLabelMapd",
    "KeepProbabilitiesd",
    "LabelMapd",
    "PromptPoint",
    "PromptedEvaluator",
    "PromptedSlidingWindowInferer",
    "SaveOnScansGridd",
    "SavePromptsd",
    "SaveUncertaintyd",
    "VolumePrediction",
    "inverted",
    "prompts_in_world",
]
