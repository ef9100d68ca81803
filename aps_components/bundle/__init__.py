"""Bundles from one template: what a dataset needs said about it, and all the files that follow from it."""

from aps_components.bundle.block import DatasetBlock
from aps_components.bundle.metadata import BundleMetadata, render_metadata
from aps_components.bundle.writer import render_bundle, render_configs, write_bundle

__all__ = [
    "BundleMetadata",
    "DatasetBlock",
    "render_bundle",
    "render_configs",
    "render_metadata",
    "write_bundle",
]
