"""Writes a whole bundle: the template with one dataset's block in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from aps_components.bundle.block import DatasetBlock
from aps_components.bundle.metadata import DATA_LICENSE, SCHEMA_FILE, BundleMetadata, render_metadata
from aps_components.files import expanded

MARKER = '    "dataset block": null,\n'
CONFIGS = (
    "train.json",
    "evaluate.json",
    "inference.json",
    "pretrain.json",
    "multi_gpu_train.json",
    "logging.conf",
    SCHEMA_FILE,
)
README, TERMS = "README.md", Path(DATA_LICENSE).name


def template(name: str) -> str:
    """A file of the template."""
    return (resources.files(__package__) / "template" / name).read_text(encoding="utf-8")


def render_configs(block: DatasetBlock) -> dict[str, str]:
    """Every file of a bundle's ``configs`` that follows from its block: file name to text.

    They differ between bundles in the block alone, which stands in ``train.json`` and, as what to go by where a
    checkpoint says nothing, in ``inference.json`` and ``evaluate.json``.
    """
    texts = {name: template(name) for name in CONFIGS}
    texts["train.json"] = _filled(texts["train.json"], block.text())
    texts["inference.json"] = _filled(texts["inference.json"], block.inference_text())
    texts["evaluate.json"] = _filled(texts["evaluate.json"], block.evaluation_text())
    return texts


def render_bundle(
    *,
    block: DatasetBlock,
    metadata: BundleMetadata,
    datalist: Mapping[str, Any] | None = None,
    docs: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Every file of a bundle: path inside its folder to text; the arguments are those of :func:`write_bundle`."""
    files = {f"configs/{name}": text for name, text in render_configs(block).items()}
    if TERMS not in (docs or {}):
        metadata = replace(metadata, to_fill_in=[DATA_LICENSE])
    files["configs/metadata.json"] = render_metadata(metadata, block)
    if datalist is not None:
        files["configs/datalist.json"] = render_datalist(datalist)
    files["LICENSE"] = template("LICENSE")
    pages = {README: _readme(block, metadata), TERMS: _data_license(metadata), **(docs or {})}
    files |= {f"docs/{_plain(name)}": text for name, text in pages.items()}
    files["models/README.md"] = template("models.md")
    return files


def write_bundle(
    folder: str | os.PathLike[str],
    *,
    block: DatasetBlock,
    metadata: BundleMetadata,
    datalist: Mapping[str, Any] | None = None,
    docs: Mapping[str, str] | None = None,
) -> Path:
    """Write a bundle that MONAI runs; all of it or nothing.

    Args:
        folder: missing or empty; the folders above it are made.
        block: what its configurations say about the dataset.
        metadata: what its ``metadata.json`` says besides.
        datalist: becomes ``configs/datalist.json``, for datasets that bring none of their own.
        docs: file name under ``docs`` to text; ``README.md`` and ``data_license.txt`` are written where it has none.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds something, or is a file.
    """
    folder = Path(os.path.abspath(expanded(folder)))
    files = render_bundle(block=block, metadata=metadata, datalist=datalist, docs=docs)
    if folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not an empty folder: name a new one, or empty it")
    # Built beside it and then renamed, so that no half of a bundle is ever found.
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for name, text in files.items():
            file = unfinished / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        if folder.is_dir():
            folder.rmdir()
        os.replace(unfinished, folder)
    except OSError as error:
        if folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(f"{folder}: another process has just made it; name another folder") from error
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def render_datalist(datalist: Mapping[str, Any]) -> str:
    """A datalist as JSON with a line for each case."""
    return "{\n" + ",\n".join(f"    {_json(key)}: {_entries(value)}" for key, value in datalist.items()) + "\n}\n"


def _entries(value: Any) -> str:
    if not isinstance(value, list) or not value:
        return _json(value)
    return "[\n" + ",\n".join(f"        {_json(case)}" for case in value) + "\n    ]"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _filled(text: str, lines: str) -> str:
    before, marker, after = text.partition(MARKER)
    if not marker:
        raise RuntimeError(f"the template has no line {MARKER.strip()}")
    return before + lines + after


def _plain(name: str) -> str:
    if not name or name in (".", "..") or Path(name).name != name or "\\" in name:
        raise ValueError(f"docs has the file {name!r}: give a plain file name, all of them lie in docs/")
    return name


def _readme(block: DatasetBlock, metadata: BundleMetadata) -> str:
    spacing = "each scan's own" if block.spacing is None else " x ".join(f"{size:g}" for size in block.spacing) + " mm"
    labeled = "all that have a label" if block.labeled_count is None else f"the first {block.labeled_count}"
    return Template(template("readme.md")).substitute(
        name=metadata.name,
        task=metadata.task,
        description=metadata.description,
        data_source=metadata.data_source,
        modality=metadata.modality,
        image=metadata.image_classes,
        channels=", ".join(block.modalities) if block.modalities else block.in_channels,
        classes="\n".join(f"| {value} | {name} |" for value, name in block.labels.items()),
        num_classes=block.num_classes,
        spacing=spacing,
        roi_size=" x ".join(str(size) for size in block.roi_size),
        intensity=_json(block.intensity),
        labeled=labeled,
        validation_count=block.validation_count,
        references="\n".join(f"- {reference}" for reference in metadata.references) or "None given.",
    )


def _data_license(metadata: BundleMetadata) -> str:
    return Template(template(TERMS)).substitute(name=metadata.name, data_source=metadata.data_source)
