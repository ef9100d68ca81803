"""Bundles from one template: what a dataset needs said about it, and all the files that follow from it."""

from aps_components.bundle.block import DatasetBlock
from aps_components.bundle.command import aps_command, workflow_command
from aps_components.bundle.locate import (
    bundle_metadata,
    bundle_name,
    locate_bundle,
    require_weights,
    version_differences,
)
from aps_components.bundle.metadata import BundleMetadata, render_metadata
from aps_components.bundle.writer import render_bundle, render_configs, write_bundle

__all__ = [
    "BundleMetadata",
    "DatasetBlock",
    "aps_command",
    "bundle_metadata",
    "bundle_name",
    "locate_bundle",
    "render_bundle",
    "render_configs",
    "render_metadata",
    "require_weights",
    "version_differences",
    "workflow_command",
    "write_bundle",
]
