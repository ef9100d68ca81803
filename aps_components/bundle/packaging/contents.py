"""What goes into a package: the bundle's own files, a copy of this project's code, and what the checkpoint changes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from aps_components.bundle.block import INDENT, DatasetBlock
from aps_components.models import TRAINED_KEYS

PACKAGE = Path(__file__).parents[2]  # aps_components
# Of the code: the modules, and pyproject.toml's package-data; of neither what a bundle has no use for.
PACKAGE_DATA = (
    "py.typed",
    "bundle/template/*",
    "data/preparation/*.txt",
    "label_server/*.txt",
    "label_server/*.js",
    "prompts/*.pt",
    "report/*.html",
)
STUDIES = "studies"
# Of a checkpoint's settings: what its weights are worth nothing without, and what follows from its classes.
ADAPTED = (*TRAINED_KEYS, "label_values", "ignore", "regions", "class_weights")
ENTRY = re.compile(rf'^(?={INDENT}")', re.MULTILINE)


def bundle_files(bundle: Path) -> dict[str, bytes]:
    """LICENSE, ``configs``, ``docs`` and the page of ``models``, where they are there: name in the bundle to content.

    Everything else in the folder, such as results and checkpoints, is left out, as are hidden files and backups.
    """
    found = [bundle / "LICENSE", bundle / "models" / "README.md"]
    found += [path for folder in ("configs", "docs") for path in sorted((bundle / folder).rglob("*"))]
    names = {path: path.relative_to(bundle) for path in found if path.is_file()}
    return {name.as_posix(): path.read_bytes() for path, name in names.items() if _is_own(name)}


def code_files() -> dict[str, bytes]:
    """``aps_components`` as it is running now, without its studies: name in the package to content."""
    found = {path for pattern in ("**/*.py", *PACKAGE_DATA) for path in PACKAGE.glob(pattern) if path.is_file()}
    names = {path: path.relative_to(PACKAGE) for path in sorted(found)}
    kept = {path: name for path, name in names.items() if _is_own(name) and name.parts[0] != STUDIES}
    return {(PACKAGE.name / name).as_posix(): path.read_bytes() for path, name in kept.items()}


def _is_own(name: PurePath) -> bool:
    return name.name[-1] != "~" and not any(part.startswith(".") or part == "__pycache__" for part in name.parts)


def trained_block(block: DatasetBlock, settings: Mapping[str, Any], *, file: str | os.PathLike[str]) -> DatasetBlock:
    """The block with what a checkpoint's settings say of :data:`ADAPTED`.

    Args:
        block: of the bundle.
        settings: of the checkpoint's training.
        file: that holds them.

    Raises:
        ValueError: they do not fit each other, or what the block says besides; names the file.
    """
    try:
        return replace(block, **{key: settings[key] for key in ADAPTED if key in settings})
    except ValueError as error:
        raise ValueError(f"{os.fspath(file)}: {'; '.join(str(error).splitlines())}") from error


def with_block(files: Mapping[str, bytes], block: DatasetBlock, trained: DatasetBlock) -> dict[str, bytes]:
    """``train.json``, ``evaluate.json`` and ``inference.json`` with the values that the checkpoint was trained with.

    The shapes of the weights depend on the patch, and MONAI's ``bundle.load`` passes over weights of another shape
    without an error: the network that the configurations describe must be the checkpoint's by themselves.

    Args:
        files: name in the bundle to content.
        block: what they say now.
        trained: what they are to say.

    Raises:
        ValueError: the files do not have the entries of the template.
    """
    texts = {
        "configs/train.json": (block.text(), trained.text()),
        "configs/evaluate.json": (block.evaluation_text(), trained.evaluation_text()),
        "configs/inference.json": (block.inference_text(), trained.inference_text()),
    }
    return {name: _replaced(files[name].decode(), *texts[name], file=name).encode() for name in texts}


def _replaced(text: str, old: str, new: str, *, file: str) -> str:
    for before, after in zip(ENTRY.split(old), ENTRY.split(new), strict=True):
        if before != after:
            if f"\n{before}" not in text:
                raise ValueError(
                    f"{file}: there is no entry {_on_one_line(before)} to replace by the checkpoint's; write "
                    f"{_on_one_line(after)} there"
                )
            text = text.replace(f"\n{before}", f"\n{after}")
    return text


def _on_one_line(entry: str) -> str:
    return " ".join(entry.split())
