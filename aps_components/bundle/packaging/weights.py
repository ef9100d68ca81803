"""The checkpoint of a package: whether it can be published, and how the package's pages and files speak of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from aps_components.bundle.packaging.docs import with_notice
from aps_components.files import sha256_of
from aps_components.models import (
    TRAINED_KEYS,
    CheckpointError,
    numbers_fault,
    read_checkpoint,
    read_settings,
    settings_file,
    without_folders,
)

MODEL, SETTINGS, LARGE_FILES = "models/model.pt", "models/model.json", "large_files.yml"
PAGE, MODELS_PAGE, METADATA = "docs/README.md", "models/README.md", "configs/metadata.json"
UNTRAINED_KEY = "untrained"  # of metadata.json
UNTRAINED = "Untrained: no weights come with it; train first."  # on the pages
FETCH = "python -m monai.bundle download_large_files --bundle_path ."
MEGABYTE = 1_000_000
NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A checkpoint that can be published.

    Attributes:
        path: of the file.
        settings: of its training, without the folders of the machine that trained it.
    """

    path: Path
    settings: dict[str, Any]

    @property
    def megabytes(self) -> float:
        """Size of the file."""
        return self.path.stat().st_size / MEGABYTE


def read_weights(path: Path) -> tuple[Weights | None, list[str]]:
    """The checkpoint and no fault, or none and what is wrong with it."""
    try:
        faults = [*_weight_faults(path), *_settings_faults(settings_file(path))]
    except CheckpointError as error:
        faults = [f"{error}; without weights, package with --untrained"]
    if faults:
        return None, faults
    settings = read_settings(path)
    return Weights(path=path, settings=without_folders(settings)), []


def _weight_faults(path: Path) -> Iterator[str]:
    """What is wrong with the weights by themselves.

    Weights under a key, such as ``{"model": ...}``, are refused: MONAI's ``bundle.load`` passes over them without an
    error, and MONAI Label over any key but that one, and both go on with random weights.
    """
    content = read_checkpoint(path)
    others = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        what = f"holds more than weights ({_listed(others)})" if others else "is empty"
        yield f"{path}: {what}; give the network's state dict itself, which training writes as model.pt"
    elif fault := numbers_fault(content):
        yield f"{path}: {fault}"


def _settings_faults(path: Path) -> Iterator[str]:
    """Evaluation asks the settings for these, and has no value of its own for them."""
    if not path.is_file():
        yield f"{path}: missing; training writes it beside the checkpoint: copy both"
        return
    try:
        settings = read_settings(path)
        lacking = [key for key in TRAINED_KEYS if key not in settings]
    except CheckpointError as error:
        yield str(error)
    else:
        if lacking:
            yield f"{path}: does not say {', '.join(lacking)}; copy it again from the training"


def with_weights(files: dict[str, bytes], weights: Weights, *, url: str | None) -> dict[str, bytes]:
    """The files with the checkpoint, or, if it has a url of its own, with ``large_files.yml`` in its place."""
    digest, size = sha256_of(weights.path), f"{weights.megabytes:.1f} MB"
    trained = ", ".join(f"{key} {json.dumps(weights.settings[key])}" for key in TRAINED_KEYS)
    more = f"Trained with {trained}: [model.json](model.json)."
    added = _described(files, untrained=False) | {SETTINGS: (json.dumps(weights.settings, indent=1) + "\n").encode()}
    if url is None:
        added[MODEL] = weights.path.read_bytes()
        return _with_notices(files | added, models=f"`model.pt`, {size}, sha256 `{digest}`.\n{more}")
    added[LARGE_FILES] = _large_files(path=MODEL, url=url, digest=digest).encode()
    fetch = f"In the bundle's folder, this fetches and checks {{}}:\n\n```bash\n{FETCH}\n```"
    models = f"`model.pt`, {size}, sha256 `{digest}`,\nis too large for this package. {fetch.format('it')}\n\n{more}"
    page = f"The weights, {size}, are too large for this package. {fetch.format('them')}"
    return _with_notices(files | added, models=models, page=page)


def without_weights(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files with pages and metadata that say that there are no weights."""
    changed = files | _described(files, untrained=True)
    return _with_notices(changed, models=f"**{UNTRAINED}**", page=f"**{UNTRAINED}**")


def _described(files: dict[str, bytes], *, untrained: bool) -> dict[str, bytes]:
    """``metadata.json``, which says by a key of its own where there are no weights."""
    metadata = json.loads(files[METADATA])
    if metadata.get(UNTRAINED_KEY, False) == untrained:
        return {METADATA: files[METADATA]}
    others = {key: value for key, value in metadata.items() if key != UNTRAINED_KEY}
    said = {**others, UNTRAINED_KEY: True} if untrained else others
    return {METADATA: (json.dumps(said, indent=4, ensure_ascii=False) + "\n").encode()}


def _with_notices(files: dict[str, bytes], *, models: str, page: str = "") -> dict[str, bytes]:
    texts = {MODELS_PAGE: b"# Models\n"} | files
    return files | {
        name: with_notice(texts[name].decode("utf-8"), notice).encode()
        for name, notice in ((MODELS_PAGE, models), (PAGE, page))
    }


def _large_files(*, path: str, url: str, digest: str) -> str:
    """What ``python -m monai.bundle download_large_files`` reads; JSON's texts are YAML's, too."""
    entry = {"path": path, "url": url, "hash_val": digest, "hash_type": "sha256"}
    first, *others = (f"{key}: {json.dumps(value)}" for key, value in entry.items())
    return "\n".join(["large_files:", f"  - {first}", *(f"    {line}" for line in others)]) + "\n"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
