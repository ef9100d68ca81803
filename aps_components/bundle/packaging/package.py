"""The zip file of a bundle, for MONAI's model zoo: made if the bundle fits, and else every fault is named."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from aps_components.bundle.block import DatasetBlock
from aps_components.bundle.locate import TRAINED, bundle_name
from aps_components.bundle.packaging.archive import copy_file, write_archive, write_checksum
from aps_components.bundle.packaging.checks import run_faults
from aps_components.bundle.packaging.contents import (
    ADAPTED,
    PACKAGE,
    bundle_files,
    code_files,
    trained_block,
    with_block,
)
from aps_components.bundle.packaging.docs import PackagedPages
from aps_components.bundle.packaging.faults import METADATA, PAPERS, config_faults, network_faults, paper_faults
from aps_components.bundle.packaging.weights import (
    MODEL,
    SETTINGS,
    Weights,
    read_weights,
    with_weights,
    without_weights,
)
from aps_components.files import ensure_writable, expanded, real
from aps_components.models import settings_file
from aps_components.options import number
from aps_components.ownership import PATIENCE, alone_in

LIMIT_MB = 25.0  # of one file, in the model zoo
ADDRESS = re.compile(r"https?://\S+")


class PackageError(ValueError):
    """A bundle that cannot be packaged; the message names every fault and its mend."""

    def __init__(self, bundle: str | os.PathLike[str], faults: list[str]) -> None:
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        super().__init__("\n- ".join([f"{os.fspath(bundle)} cannot be packaged, {count}:", *faults]))
        self.faults = faults


@dataclass(frozen=True, kw_only=True)
class Package:
    """What was written.

    Attributes:
        archive: the zip file; its checksum lies beside it, in ``NAME.zip.sha256``.
        sha256: of the zip file.
        weights: the checkpoint, where it is too large for the zip file.
        url: where the zip file says that these weights are to be found.
        adapted: settings of the configurations that were replaced by the checkpoint's.
    """

    archive: Path
    sha256: str
    weights: Path | None
    url: str | None
    adapted: dict[str, Any]


def package_bundle(
    bundle: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] = "dist",
    checkpoint: str | os.PathLike[str] | None = None,
    untrained: bool = False,
    weights_url: str | None = None,
    limit_mb: float = LIMIT_MB,
) -> Package:
    """Write ``NAME_vVERSION.zip`` and its checksum: the bundle, its checkpoint and a copy of ``aps_components``.

    The same bundle, checkpoint and version of this project give the same bytes. Classes, channels, network, spacing,
    patch and intensity of the packaged configurations are those that the checkpoint was trained with.

    Args:
        bundle: its folder, which gives NAME, or the one of ``aps train`` that holds it; ``configs/metadata.json`` gives
            VERSION.
        out: folder for the files; made if it is missing.
        checkpoint: the weights, with the settings of their training in a .json beside them; by default the bundle's
            ``models/model.pt``.
        untrained: package without weights; file name, metadata and pages then say so.
        weights_url: the address of the folder from which a checkpoint over the limit can be fetched.
        limit_mb: megabytes up to which a checkpoint goes into the zip file; a larger one is written beside it, and
            ``large_files.yml`` in the zip file names its address and hash.

    Raises:
        PackageError: the bundle does not fit; nothing is written.
        FileNotFoundError: there is no such folder.
        ValueError: the other arguments do not fit each other.
    """
    limit_mb = number(least=0)("limit_mb", limit_mb)
    folder = real(expanded(bundle))
    if not (folder / "configs").is_dir() and (folder / TRAINED / "configs").is_dir():
        folder = folder / TRAINED
    if not (folder / "configs").is_dir():
        raise FileNotFoundError(f"no bundle at {bundle}: give its folder, such as bundles/NAME")
    if untrained and checkpoint is not None:
        raise ValueError(f"untrained and a checkpoint ({checkpoint}) exclude each other: leave one of them out")
    if weights_url is not None and not ADDRESS.fullmatch(weights_url):
        raise ValueError(f"weights_url {weights_url!r} must be an address such as https://example.org/weights")

    weights, of_weights = (None, []) if untrained else read_weights(expanded(checkpoint or folder / MODEL))
    if weights is not None and weights.megabytes > limit_mb and weights_url is None:
        of_weights = [_large_fault(weights, limit_mb)]
    files, adapted, faults = _checked_files(folder, weights, has_weights=not untrained)
    if faults := [*faults, *of_weights]:
        raise PackageError(bundle, faults)

    stem, url = f"{bundle_name(folder)}_v{json.loads(files[METADATA])['version']}", None
    if weights is not None and weights.megabytes > limit_mb and weights_url is not None:
        url = f"{weights_url.rstrip('/')}/{quote(stem)}_model.pt"
    files = without_weights(files) if weights is None else with_weights(files, weights, url=url)
    place = ensure_writable(expanded(out))
    suffix = "_untrained" if untrained else ""
    contents = {f"{bundle_name(folder)}/{name}": content for name, content in files.items()}
    with alone_in(place, patience=PATIENCE):  # the checksum is that of this archive, whoever else writes one
        archive = write_archive(place / f"{stem}{suffix}.zip", contents)
        return Package(
            archive=archive,
            sha256=write_checksum(archive),
            weights=copy_file(weights.path, place / f"{stem}_model.pt") if weights is not None and url else None,
            url=url,
            adapted=adapted,
        )


def _large_fault(weights: Weights, limit_mb: float) -> str:
    return (
        f"{weights.path}: {weights.megabytes:.1f} MB, and a package takes {limit_mb:g} MB; write it at half the size "
        f"(aps halve {weights.path} HALF.pt) and give --checkpoint HALF.pt, or say with --weights_url ADDRESS from "
        "where it can be fetched"
    )


def _checked_files(
    folder: Path, weights: Weights | None, *, has_weights: bool
) -> tuple[dict[str, bytes], dict[str, Any], list[str]]:
    """The package's files but for the weights, the settings that the checkpoint changed in them, and all faults."""
    files, adapted = bundle_files(folder), dict[str, Any]()
    faults = list(paper_faults(bundle_name(folder), files))
    if of_configs := list(config_faults(files)):
        faults += of_configs
    else:
        try:
            block = DatasetBlock.read(folder / "configs" / "train.json")
            trained = block
            if weights is not None:
                trained = trained_block(block, weights.settings, file=settings_file(weights.path))
            files = files | with_block(files, block, trained)
        except ValueError as error:
            faults.append(str(error))
        else:
            values = {key: (getattr(block, key), getattr(trained, key)) for key in ADAPTED}
            adapted = {key: after for key, (before, after) in values.items() if before != after}
            faults += network_faults(json.loads(files[METADATA]), trained)
            faults += _run_faults(bundle_name(folder), files, trained, weights)
    code = code_files()
    expected = {*files, *code, *PAPERS, *((MODEL, SETTINGS) if has_weights else ())}  # what is missing is said already
    pages = PackagedPages(folder, project=PACKAGE.parent, names=expected)
    return files | code | pages.files, adapted, [*faults, *pages.faults]


def _run_faults(name: str, files: dict[str, bytes], block: DatasetBlock, weights: Weights | None) -> list[str]:
    """Of the bundle as it will be unpacked."""
    with TemporaryDirectory() as temporary:
        root = Path(temporary) / name
        for file, content in files.items():
            path = root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if weights is not None:
            (root / MODEL).parent.mkdir(exist_ok=True)
            shutil.copyfile(weights.path, root / MODEL)
            (root / SETTINGS).write_text(json.dumps(weights.settings), encoding="utf-8")
        return run_faults(root, block)
