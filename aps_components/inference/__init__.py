"""Whole volumes in, label maps out."""

from aps_components.inference.evaluator import PromptedEvaluator
from aps_components.inference.inferer import PromptedSlidingWindowInferer, PromptPoint, VolumePrediction
from aps_components.inference.postprocessing import (
    InvertToLabelMapd,
    LabelMapd,
    inverted,
    output_transforms,
)
from aps_components.inference.prompt_file import prompts_in_world

__all__ = [
    "InvertToLabelMapd",
    "LabelMapd",
    "PromptPoint",
    "PromptedEvaluator",
    "PromptedSlidingWindowInferer",
    "VolumePrediction",
    "inverted",
    "output_transforms",
    "prompts_in_world",
]
