"""Data: splits, checks, transforms and two-stream sampling."""

from aps_components.data.augmentation import AUGMENTATIONS, InPlane, OfKeys, cropped_size
from aps_components.data.checks import check_cases
from aps_components.data.cropping import BalancedCropd, LabeledToIndicesd
from aps_components.data.datalist import Datalist, case_name, load_datalist
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
from aps_components.data.room import segmentation_room
from aps_components.data.sampling import (
    EvaluationCache,
    SampleKey,
    SeededCacheDataset,
    TwoStreamBatchSampler,
    collate_two_stream,
    loader_workers,
    two_stream_loader,
)
from aps_components.data.scans_to_segment import inference_items
from aps_components.data.swelling import RandSwelld
from aps_components.data.transforms import (
    LoadVolumed,
    NormalizeScand,
    Pipeline,
    Resampled,
    evaluation_transforms,
    flips_and_quarter_turns,
    intensity_transforms,
    most_turn,
)
from aps_components.data.voxel_size import agreed_voxel_size

__all__ = [
    "AUGMENTATIONS",
    "BalancedCropd",
    "DataError",
    "Datalist",
    "EvaluationCache",
    "InPlane",
    "LabeledToIndicesd",
    "LoadVolumed",
    "NormalizeScand",
    "OfKeys",
    "Pipeline",
    "RandSwelld",
    "Resampled",
    "SampleKey",
    "ScansToSegment",
    "SeededCacheDataset",
    "TrainingDataset",
    "TwoStreamBatchSampler",
    "agreed_voxel_size",
    "case_identities",
    "case_name",
    "check_cases",
    "collate_two_stream",
    "cropped_size",
    "data_error_behind",
    "dataset_name",
    "evaluation_transforms",
    "flips_and_quarter_turns",
    "inference_items",
    "intensity_transforms",
    "lazy_datalist",
    "load_datalist",
    "loader_workers",
    "most_turn",
    "segmentation_room",
    "select_modalities",
    "studies_folder",
    "training_dataset",
    "two_stream_loader",
    "unlabeled_items",
    "validation_dataset",
]
