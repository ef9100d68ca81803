"""Data: splits, checks, transforms and two-stream sampling."""

from aps_components.data.checks import check_cases
from aps_components.data.cropping import BalancedCropd
from aps_components.data.datalist import Datalist, case_name, inference_items, load_datalist
from aps_components.data.datastore import (
    TrainingDataset,
    dataset_name,
    lazy_datalist,
    studies_folder,
    training_dataset,
    unlabeled_items,
    validation_dataset,
)
from aps_components.data.errors import DataError, data_error_behind
from aps_components.data.identity import case_identities
from aps_components.data.inference import ScansToSegment
from aps_components.data.modalities import select_modalities
from aps_components.data.sampling import (
    EvaluationCache,
    SampleKey,
    SeededCacheDataset,
    TwoStreamBatchSampler,
    collate_two_stream,
    loader_workers,
    two_stream_loader,
)
from aps_components.data.transforms import (
    AUGMENTATIONS,
    LoadVolumed,
    Resampled,
    evaluation_transforms,
    intensity_transforms,
    training_transforms,
)

__all__ = [
    "AUGMENTATIONS",
    "BalancedCropd",
    "DataError",
    "Datalist",
    "EvaluationCache",
    "LoadVolumed",
    "Resampled",
    "SampleKey",
    "ScansToSegment",
    "SeededCacheDataset",
    "TrainingDataset",
    "TwoStreamBatchSampler",
    "case_identities",
    "case_name",
    "check_cases",
    "collate_two_stream",
    "data_error_behind",
    "dataset_name",
    "evaluation_transforms",
    "inference_items",
    "intensity_transforms",
    "lazy_datalist",
    "load_datalist",
    "loader_workers",
    "select_modalities",
    "studies_folder",
    "training_dataset",
    "training_transforms",
    "two_stream_loader",
    "unlabeled_items",
    "validation_dataset",
]
