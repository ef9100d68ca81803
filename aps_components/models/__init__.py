"""Models A and B wired together."""

from aps_components.models.auto_prompt_seg import (
    AutoPromptSeg,
    Prediction,
    Predictor,
    TrainingOutput,
    mean_of_probabilities,
)
from aps_components.models.build import build_auto_prompt_seg
from aps_components.models.checkpoint import (
    TRAINED_KEYS,
    copy_settings,
    ensure_writable,
    load_weights,
    read_checkpoint,
    save_atomically,
    save_model,
    save_settings,
    trained_setting,
    without_folders,
)
from aps_components.models.half import halve
from aps_components.models.precision import Precision, autocast, resolved_precision
from aps_components.models.settings import CheckpointError, read_settings, settings_file

__all__ = [
    "TRAINED_KEYS",
    "AutoPromptSeg",
    "CheckpointError",
    "Precision",
    "Prediction",
    "Predictor",
    "TrainingOutput",
    "autocast",
    "build_auto_prompt_seg",
    "copy_settings",
    "ensure_writable",
    "halve",
    "load_weights",
    "mean_of_probabilities",
    "read_checkpoint",
    "read_settings",
    "resolved_precision",
    "save_atomically",
    "save_model",
    "save_settings",
    "settings_file",
    "trained_setting",
    "without_folders",
]
