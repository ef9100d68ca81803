"""A bundle's ``metadata.json``: what its configurations cannot say, and what the dataset block says."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from aps_components.bundle.block import DatasetBlock
from aps_components.bundle.segment_codes import KEY, read_segment_codes
from aps_components.plain_json import read_object
from aps_components.terminal import shown

SCHEMA_FILE = "meta_schema_20240725.json"
SCHEMA = f"https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/{SCHEMA_FILE}"
# With which the template is tested.
VERSIONS = {"monai_version": "1.6.1", "pytorch_version": "2.13.0", "numpy_version": "2.4.6"}
DATA_LICENSE = "docs/data_license.txt"
TO_FILL_IN = "to_fill_in"  # key of metadata.json: pages that nobody but the bundle's owner can write
PACKAGES = {
    "nibabel": "5.4.2",
    "pytorch-ignite": "0.5.5",
    "segment-anything": "1.0",
    "scipy": "1.17.1",
    "tensorboard": "2.21.0",
    "tqdm": "4.70.1",
    "matplotlib": "3.11.2",  # evaluation
    "fire": "0.7.1",  # MONAI's command line
    "pyyaml": "6.0.3",  # large_files.yml
}
NORMALISED = [-10, 30]  # about where values lie whose mean is 0 and whose deviation is 1


@dataclass(frozen=True, kw_only=True)
class BundleMetadata:
    """What is written about a bundle; every text goes into ``metadata.json`` as it is.

    Args:
        name: of the bundle, a title.
        task: in one sentence.
        description: of the method.
        modality: of the scans, in DICOM's code: "MR", "CT".
        image_classes: what an image is, such as "single channel CT".
        data_source: where the scans come from.
        references: to cite, one each.
        data_type: what reads the scans.
        authors: of the bundle.
        copyright: of the bundle.
        intended_use: what it is for.
        version: of the bundle.
        changelog: version to what is new in it; must name `version`.
        segment_codes: class value, as text, to the codes of what it is; see ``segment_codes.read_segment_codes``.
        to_fill_in: pages of the bundle that its owner has still to write; with one of them it is not packaged.
    """

    name: str
    task: str
    modality: str
    image_classes: str
    data_source: str
    references: list[str] = field(default_factory=list)
    description: str = (
        "A network and a volume-native Segment Anything model that it prompts, trained on few labelled and "
        "many unlabelled scans"
    )
    data_type: str = "nibabel"
    authors: str = "AutoPromptSeg contributors"
    copyright: str = "Copyright (c) AutoPromptSeg contributors"
    intended_use: str = "Research only; not for diagnosis or treatment"
    version: str = "0.1.0"
    changelog: dict[str, str] = field(
        default_factory=lambda: {"0.1.0": "first version: semi-supervised training, evaluation and inference"}
    )
    segment_codes: dict[str, dict[str, str]] = field(default_factory=dict)
    to_fill_in: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if empty := [name for name in ("name", "task", "modality", "data_source") if not getattr(self, name)]:
            raise ValueError(f"{empty[0]} of the bundle's metadata is empty: say it in a few words")
        if self.version not in self.changelog:
            raise ValueError(f"version '{shown(self.version)[:80]}' is not in the changelog: add what is new")
        read_segment_codes(self.segment_codes)

    @classmethod
    def read(cls, metadata_json: str | os.PathLike[str]) -> BundleMetadata:
        """The metadata of a bundle that this module wrote.

        Raises:
            ValueError: it is not JSON or lacks a key; names the file.
        """
        path = Path(metadata_json)
        try:
            content = read_object(path)
            modality = content["network_data_format"]["inputs"]["image"]["modality"]
            optional = {KEY: content.get(KEY, {}), TO_FILL_IN: content.get(TO_FILL_IN, [])}
            own = {
                entry.name: content[entry.name] for entry in fields(cls) if entry.name not in ("modality", *optional)
            }
            return cls(modality=modality, **optional, **own)
        except KeyError as error:
            raise ValueError(f"{path}: key {error} is missing; add it") from error
        except TypeError:
            raise ValueError(f"{path}: network_data_format says nothing of an image's modality; add it") from None
        except ValueError as error:
            raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def render_metadata(metadata: BundleMetadata, block: DatasetBlock) -> str:
    """The text of ``metadata.json``, which fits the schema that MONAI names in it."""
    names = list(block.labels.values())
    content = {
        "schema": SCHEMA,
        "version": metadata.version,
        "changelog": metadata.changelog,
        **VERSIONS,
        "required_packages_version": PACKAGES,
        "supported_apps": {},
        "name": metadata.name,
        "task": metadata.task,
        "description": metadata.description,
        "authors": metadata.authors,
        "copyright": metadata.copyright,
        "data_source": metadata.data_source,
        "data_type": metadata.data_type,
        "image_classes": metadata.image_classes,
        "label_classes": "single channel: " + ", ".join(f"{value} {name}" for value, name in block.labels.items()),
        "pred_classes": f"{len(names)} channels: {', '.join(names)}",
        **({KEY: metadata.segment_codes} if metadata.segment_codes else {}),
        **({TO_FILL_IN: metadata.to_fill_in} if metadata.to_fill_in else {}),
        "eval_metrics": {},
        "intended_use": metadata.intended_use,
        "references": metadata.references,
        "network_data_format": {
            "inputs": {"image": _image(metadata, block)},
            "outputs": {"pred": _prediction(block)},
        },
    }
    return json.dumps(content, indent=4, ensure_ascii=False) + "\n"


def _image(metadata: BundleMetadata, block: DatasetBlock) -> dict[str, Any]:
    single = ["image"] if block.in_channels == 1 else [f"channel {index}" for index in range(block.in_channels)]
    return {
        "type": "image",
        "format": "hounsfield" if metadata.modality == "CT" else "magnitude",
        "modality": metadata.modality,
        "num_channels": block.in_channels,
        "spatial_shape": _any_size(block),
        "dtype": "float32",
        "value_range": _value_range(block.intensity),
        "is_patch_data": True,
        "channel_def": _numbered(block.modalities or single),
    }


def _prediction(block: DatasetBlock) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "segmentation",
        "num_channels": block.num_classes,
        "spatial_shape": _any_size(block),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": dict(block.labels),
    }


def _any_size(block: DatasetBlock) -> list[str]:
    """Sizes that the network takes, as MONAI's schema writes them."""
    return [f"{step}*n" for step in block.stride]


def _value_range(intensity: Any) -> list[int]:
    """Of what the network sees: after normalisation."""
    if intensity is None:
        return []
    return [0, 1] if isinstance(intensity, Mapping) else NORMALISED


def _numbered(names: list[str]) -> dict[str, str]:
    return {str(index): name for index, name in enumerate(names)}
