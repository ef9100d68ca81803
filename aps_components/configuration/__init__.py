"""Configurations as MONAI reads them: their options, and what a run is by them."""

from aps_components.configuration.bundle_workflow import BundleConfig, BundleWorkflow
from aps_components.configuration.checks import check_options, lay_over, needed_by
from aps_components.configuration.options import DATASET_OPTIONS, OPTIONS, contradictions
from aps_components.configuration.settings import model_settings, network_options, network_settings, run_settings

__all__ = [
    "DATASET_OPTIONS",
    "OPTIONS",
    "BundleConfig",
    "BundleWorkflow",
    "check_options",
    "contradictions",
    "lay_over",
    "model_settings",
    "needed_by",
    "network_options",
    "network_settings",
    "run_settings",
]
