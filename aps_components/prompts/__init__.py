"""Point prompts from a model's own predictions."""

from aps_components.prompts.generator import (
    PAD_LABEL,
    PointPrompts,
    PromptGenerator,
    PromptPrecision,
    local_maxima,
    normalise_per_case,
    prompt_precision,
    window_maximum,
)

__all__ = [
    "PAD_LABEL",
    "PointPrompts",
    "PromptGenerator",
    "PromptPrecision",
    "local_maxima",
    "normalise_per_case",
    "prompt_precision",
    "window_maximum",
]
