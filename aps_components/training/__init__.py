"""Training on monai.engines."""

# Configs of earlier bundles name `PromptedEvaluator` here; train.json names the metrics here.
from aps_components.inference.evaluator import PromptedEvaluator, PromptPrecisionMetric, dice_metric
from aps_components.training.checkpoint import TrainingCheckpoint, load_pretrained
from aps_components.training.distributed import (
    cache_share_of_rank,
    enter_folder,
    handlers_of_rank,
    share_of_rank,
    start_process_group,
    stop_process_group,
)
from aps_components.training.history import TrainingHistory, read_history
from aps_components.training.mean_teacher import MeanTeacher
from aps_components.training.objective import SemiSupervisedObjective, build_objective
from aps_components.training.patches import TrainingPatches
from aps_components.training.trainer import NonFiniteLossError, SemiSupervisedTrainer

__all__ = [
    "MeanTeacher",
    "NonFiniteLossError",
    "PromptPrecisionMetric",
    "PromptedEvaluator",
    "SemiSupervisedObjective",
    "SemiSupervisedTrainer",
    "TrainingCheckpoint",
    "TrainingHistory",
    "TrainingPatches",
    "build_objective",
    "cache_share_of_rank",
    "dice_metric",
    "enter_folder",
    "handlers_of_rank",
    "load_pretrained",
    "read_history",
    "share_of_rank",
    "start_process_group",
    "stop_process_group",
]
