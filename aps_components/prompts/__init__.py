"""Prompts from a model's own predictions, and prompts as a person would give them."""

from aps_components.prompts.altered_targets import AlteredTargets, exchanged_classes
from aps_components.prompts.border_maps import REACH
from aps_components.prompts.border_network import BorderNetwork, border_network, learned_border
from aps_components.prompts.corrected import with_moved_borders
from aps_components.prompts.generator import (
    PAD_LABEL,
    PointPrompts,
    PromptGenerator,
    local_maxima,
    normalise_per_case,
    window_maximum,
)
from aps_components.prompts.moved_border import MovedBorder, moved_border
from aps_components.prompts.simulated import Box, Click, Scribble, deepest_error, holds
from aps_components.prompts.user import SimulatedUser, UserPrompts

__all__ = [
    "PAD_LABEL",
    "REACH",
    "AlteredTargets",
    "BorderNetwork",
    "Box",
    "Click",
    "MovedBorder",
    "PointPrompts",
    "PromptGenerator",
    "Scribble",
    "SimulatedUser",
    "UserPrompts",
    "border_network",
    "deepest_error",
    "exchanged_classes",
    "holds",
    "learned_border",
    "local_maxima",
    "moved_border",
    "normalise_per_case",
    "window_maximum",
    "with_moved_borders",
]
