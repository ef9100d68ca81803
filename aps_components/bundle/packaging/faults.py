"""What a bundle's files lack for MONAI's model zoo: one line a fault, with its mend; nothing is run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from aps_components.bundle.block import DatasetBlock
from aps_components.bundle.metadata import (
    DATA_LICENSE,
    PACKAGES,
    SCHEMA_FILE,
    TO_FILL_IN,
    BundleMetadata,
    render_metadata,
)
from aps_components.bundle.packaging.checks import schema_faults
from aps_components.bundle.packaging.docs import headings
from aps_components.plain_json import parse_json

# Plain, because MONAI takes what stands before the first "." of NAME.zip for the folder in it.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
SECTIONS = (
    "Model Overview",
    "Data",
    "Training configuration",
    "Input",
    "Output",
    "Performance",
    "MONAI Bundle Commands",
    "References",
    "License",
)
UNFILLED = b"TO FILL IN"  # as `aps new-bundle` writes it
METADATA, PAGE = "configs/metadata.json", "docs/README.md"
PAPERS = {
    "LICENSE": "copy the project's LICENSE there, or write the bundle's own",
    PAGE: f"write one with the sections {', '.join(SECTIONS)}",
    DATA_LICENSE: "say there where the data come from and what their terms are",
}
CONFIGS = {METADATA: "copy that of another bundle and change it"} | dict.fromkeys(
    [f"configs/{name}" for name in ("train.json", "evaluate.json", "inference.json", "logging.conf", SCHEMA_FILE)],
    "copy it from another bundle, or make the bundle anew with `aps new-bundle`",
)
# What metadata.json says of the network, and the configurations say again.
SHARED = (
    ("inputs", "image", "num_channels"),
    ("inputs", "image", "value_range"),
    ("outputs", "pred", "num_channels"),
    ("outputs", "pred", "channel_def"),
)


def paper_faults(name: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """What is wrong with the folder's name, the licences and the documentation.

    Args:
        name: of the folder, which the package takes.
        files: name in the bundle to content.
    """
    if not NAME.fullmatch(name):
        yield f'{name}: no name for a bundle; rename the folder with letters, digits, "_" and "-" alone'
    yield from _missing(files, PAPERS)
    if UNFILLED in files.get(DATA_LICENSE, b""):
        yield f"{DATA_LICENSE}: still says {UNFILLED.decode()!r}; write the terms of the data there"
    if PAGE in files:
        yield from _page_faults(files[PAGE].decode(errors="replace"))


def config_faults(files: Mapping[str, bytes]) -> Iterator[str]:
    """What is wrong with the configurations as files, and with ``metadata.json`` by itself."""
    yield from _missing(files, CONFIGS)
    for name, content in files.items():
        if name.startswith("configs/") and name.endswith(".json") and content.strip():
            try:
                parsed = parse_json(content, name=name)
            except ValueError as error:
                yield str(error)
            else:
                yield from _metadata_faults(parsed) if name == METADATA else ()


def _missing(files: Mapping[str, bytes], wanted: Mapping[str, str]) -> Iterator[str]:
    for name, mend in wanted.items():
        if not files.get(name, b"").strip():
            yield f"{name}: {'empty' if name in files else 'missing'}; {mend}"


def _metadata_faults(metadata: Any) -> Iterator[str]:
    if not isinstance(metadata, dict):
        yield f"{METADATA}: holds a {type(metadata).__name__}; write a JSON object"
        return
    for fault in schema_faults(metadata):
        yield f"{METADATA}: {fault}; mend it as configs/{SCHEMA_FILE} wants it"
    for page in metadata.get(TO_FILL_IN) or ():
        yield f"{page}: not filled in yet; do it, and take it out of {TO_FILL_IN} in {METADATA}"
    yield from _version_faults(metadata.get("version"), metadata.get("changelog"))
    required = metadata.get("required_packages_version")
    for name, version in PACKAGES.items():
        if isinstance(required, dict) and name not in required:
            yield f"{METADATA}: required_packages_version lacks {name}, which the bundle imports; add {version!r}"


def _version_faults(version: Any, changelog: Any) -> Iterator[str]:
    if not isinstance(version, str) or not VERSION.fullmatch(version):
        yield f'{METADATA}: version {version!r} is not MAJOR.MINOR.PATCH; write one such as "0.1.0"'
    elif not isinstance(changelog, dict) or not changelog:
        yield f'{METADATA}: changelog is {changelog!r}; map the version to what is new: {{"{version}": "..."}}'
    elif not changelog.get(version):
        yield f"{METADATA}: version {version} is not in the changelog; say there what is new in it"
    elif newer := [entry for entry in changelog if VERSION.fullmatch(entry) and _order(entry) > _order(version)]:
        yield f"{METADATA}: the changelog goes on to {newer[0]} but version is {version}; raise version"


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


def _page_faults(page: str) -> Iterator[str]:
    """Sections that ``docs/README.md`` lacks, or that say nothing."""
    sections = headings(page)
    for title in SECTIONS:
        if title not in sections:
            yield f'{PAGE}: no section "{title}"; add "## {title}"'
        elif not sections[title]:
            yield f'{PAGE}: the section "{title}" is empty; fill it in'


def network_faults(metadata: Mapping[str, Any], block: DatasetBlock) -> Iterator[str]:
    """Where ``metadata.json`` describes another network than the configurations and the checkpoint."""
    given = metadata["network_data_format"]
    modality = _at(given, ("inputs", "image", "modality")) or "n/a"
    known = BundleMetadata(name="-", task="-", modality=modality, image_classes="-", data_source="-")
    expected = json.loads(render_metadata(known, block))["network_data_format"]
    for path in SHARED:
        said, meant = _at(given, path), _at(expected, path)
        if said != meant:
            where = "#".join(("network_data_format", *path))
            yield f"{METADATA}: {where} is {said!r}; by train.json or the checkpoint's settings write {meant!r}"
    shape = list(_at(given, ("inputs", "image", "spatial_shape")) or ())
    fixed = [isinstance(size, int) for size in shape]
    if len(shape) != 3 or (any(fixed) and shape != block.roi_size):
        yield f"{METADATA}: spatial_shape {shape!r} of the image is not the patch, {block.roi_size!r}; write that"


def _at(content: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        content = content.get(key) if isinstance(content, dict) else None
    return content
