"""Models A and B wired together."""

from aps_components.files import ensure_writable  # bundles made by version 0.2.0 import it from here
from aps_components.models.auto_prompt_seg import AutoPromptSeg
from aps_components.models.build import build_auto_prompt_seg, build_trained
from aps_components.models.half import halve
from aps_components.models.interaction import Round, as_tensors, together
from aps_components.models.model_file import (
    MODEL_ENDING,
    NETWORK,
    PREPROCESSING,
    SPACING_AGREED,
    TRAINED_KEYS,
    copy_settings,
    load_fitting,
    load_weights,
    numbers_fault,
    read_checkpoint,
    save_atomically,
    save_model,
    save_settings,
    trained_cases,
    trained_count,
    trained_network,
    trained_setting,
    without_folders,
)
from aps_components.models.precision import Precision, autocast, resolved_precision
from aps_components.models.settings import SETTINGS_OF_BEFORE, CheckpointError, read_settings, settings_file
from aps_components.models.two_models import (
    Prediction,
    Predictor,
    Seen,
    TrainingOutput,
    TwoModels,
    mean_of_probabilities,
)

__all__ = [
    "MODEL_ENDING",
    "NETWORK",
    "PREPROCESSING",
    "SETTINGS_OF_BEFORE",
    "SPACING_AGREED",
    "TRAINED_KEYS",
    "AutoPromptSeg",
    "CheckpointError",
    "Precision",
    "Prediction",
    "Predictor",
    "Round",
    "Seen",
    "TrainingOutput",
    "TwoModels",
    "as_tensors",
    "autocast",
    "build_auto_prompt_seg",
    "build_trained",
    "copy_settings",
    "ensure_writable",
    "halve",
    "load_fitting",
    "load_weights",
    "mean_of_probabilities",
    "numbers_fault",
    "read_checkpoint",
    "read_settings",
    "resolved_precision",
    "save_atomically",
    "save_model",
    "save_settings",
    "settings_file",
    "together",
    "trained_cases",
    "trained_count",
    "trained_network",
    "trained_setting",
    "without_folders",
]
