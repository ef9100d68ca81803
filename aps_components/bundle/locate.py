"""From what a user calls a bundle, its folder, its zip or its name, to the bundle's folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aps_components
from aps_components.files import expanded, real, sha256_of
from aps_components.plain_json import read_object
from aps_components.terminal import shown
from aps_components.unpacking import DAMAGES, archive_fault, tops, zip_members

TRAINED = "bundle"  # in what ``aps train`` leaves
CONFIG = Path("configs") / "inference.json"
WEIGHTS = Path("models") / "model.pt"
PACKAGE = Path(__file__).resolve().parents[1]
REPOSITORY_BUNDLES = PACKAGE.parent / "bundles"  # of a clone
SHIPPED_BUNDLES = PACKAGE / "shipped_bundles"  # of a wheel: setup.py puts them there
CACHE_DIR = "~/.cache/aps/bundles"
MAX_FILES, MAX_BYTES = 10_000, 16 * 2**30  # of an unpacked zip


def locate_bundle(
    bundle: str | os.PathLike[str],
    *,
    search: Sequence[str | os.PathLike[str]] = (),
    cache_dir: str | os.PathLike[str] = CACHE_DIR,
) -> Path:
    """The folder of a bundle.

    Args:
        bundle: a bundle's folder, or the one of ``aps train`` that holds it; a ``NAME_vX.zip`` that holds one; or the
            name of a bundle in one of the folders searched: ``bundles`` here, ``bundles`` of the repository or those
            in the wheel, and those of ``search``, in this order.
        search: more folders that hold bundles.
        cache_dir: where zips are unpacked, each once, under the SHA-256 of its content.

    Raises:
        FileNotFoundError: there is no such bundle; for a name, which ones there are.
        ValueError: a folder that is no bundle, or a zip that is none or not safe to unpack.
    """
    path = expanded(bundle)
    if path.is_file():
        return _required(unpack_bundle(path, cache_dir))
    if path.is_dir() and not _is_bundle(path) and _is_bundle(path / TRAINED):
        path = path / TRAINED
    if path.is_dir() and (_is_bundle(path) or _is_path(bundle)):
        return _required(path)
    if _is_path(bundle) or path.suffix == ".zip":
        raise FileNotFoundError(f"{bundle}: no such bundle; give the folder of a bundle, its zip, or a name")
    return _named(path.name, [Path("bundles"), installed_bundles(), *(expanded(folder) for folder in search)])


def bundle_name(root: Path) -> str:
    """What results call a bundle: its folder's name; of one that ``aps train`` left in ``OUT/bundle``, that of OUT."""
    return root.parent.name if root.name == TRAINED and root.parent.name else root.name


def installed_bundles() -> Path:
    """The folder of the bundles that come with this package: those in its wheel, or those of its repository."""
    return SHIPPED_BUNDLES if SHIPPED_BUNDLES.is_dir() else REPOSITORY_BUNDLES


def require_weights(root: str | os.PathLike[str]) -> Path:
    """The bundle's ``models/model.pt``.

    Raises:
        FileNotFoundError: it has none; how to get or train one.
    """
    root = Path(root)
    if (weights := root / WEIGHTS).is_file():
        return weights
    if root.name == TRAINED and (root.parent / "work").is_dir():
        raise FileNotFoundError(
            f"the training in {root.parent} has not ended, so {weights} is missing: it goes on by the same aps train "
            "command"
        )
    download = f"python -m monai.bundle download_large_files --bundle_path {shlex.quote(str(root))}\n  "
    raise FileNotFoundError(
        f"the bundle {root.name!r} has no weights ({weights} is missing). Give trained ones with --checkpoint FILE, "
        "give a bundle zip that holds them, or train:\n  "
        + (download if (root / "large_files.yml").is_file() else "")
        + f"python -m monai.bundle run training --config_file {shlex.quote(str(root / 'configs' / 'train.json'))} "
        f"--bundle_root {shlex.quote(str(root))} --dataset_dir DIR"
    )


def version_differences(root: str | os.PathLike[str]) -> list[str]:
    """What code the bundle brings that is not what is installed, a sentence each; nothing is wrong with that yet."""
    vendored = Path(root) / "aps_components" / "__init__.py"
    if not vendored.is_file():
        return []
    here = aps_components.__version__
    match = re.search(r'^__version__ = "(.+)"$', vendored.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None or match[1] == here:
        return []
    return [f"the bundle ships aps_components {match[1]}, the installed {here} is used"]


def bundle_metadata(root: str | os.PathLike[str]) -> dict[str, Any]:
    """The bundle's ``metadata.json``; empty where it has none that can be read."""
    try:
        return read_object(Path(root) / "configs" / "metadata.json")
    except (OSError, ValueError):
        return {}


def unpack_bundle(file: str | os.PathLike[str], cache_dir: str | os.PathLike[str] = CACHE_DIR) -> Path:
    """Unpack a bundle's zip into ``cache_dir``, once for each content.

    Nothing is written outside a new folder: names that lead out of it, links and sizes beyond reason are refused.

    Returns:
        The folder of the bundle, the only one at the top of the zip.

    Raises:
        ValueError: it is no zip, holds no single folder at its top, or is not safe to unpack.
    """
    file = Path(file)
    try:
        with zipfile.ZipFile(file) as archive:
            top = _checked(archive, file)
            place = _cache(cache_dir) / sha256_of(file)[:16]
            if not (place / top).is_dir():
                _unpack(archive, place)
    except DAMAGES as error:
        if str(file) in str(error):
            raise
        raise ValueError(f"{file}: not a zip, or a damaged one ({shown(error)[:200]}); download it again") from error
    return place / top


def _cache(folder: str | os.PathLike[str]) -> Path:
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{folder}: no home folder is known to unpack a zip into; give --cache_dir FOLDER") from error


def _is_bundle(path: Path) -> bool:
    return (path / CONFIG).is_file()


def _is_path(bundle: str | os.PathLike[str]) -> bool:
    """Whether it can be no name: it has a separator, or was a path from the start."""
    text = os.fspath(bundle)
    return not isinstance(bundle, str) or "/" in text or os.sep in text or text in (".", "..") or text.startswith("~")


def _required(root: Path) -> Path:
    if not _is_bundle(root):
        raise ValueError(f"{root}: not a bundle, it has no {CONFIG}; give the folder that holds configs/")
    return real(root)


def _named(name: str, folders: Sequence[Path]) -> Path:
    for folder in folders:
        if _is_bundle(folder / name):
            return real(folder / name)
    there = sorted({path.parents[1].name for folder in folders for path in folder.glob(f"*/{CONFIG.as_posix()}")})
    have = f"there are {', '.join(there)}" if there else "there are none"
    places = ", ".join(dict.fromkeys(str(real(folder)) for folder in folders))
    raise FileNotFoundError(f"no bundle {name!r}: {have} in {places}; give one of them, a bundle's folder, or its zip")


def _checked(archive: zipfile.ZipFile, file: Path) -> str:
    """The name of the folder at the top; refuses everything that should not be unpacked."""
    members = zip_members(archive)
    if fault := archive_fault(members, size=file.stat().st_size, most_files=MAX_FILES, most_bytes=MAX_BYTES):
        raise ValueError(f"{file}: not unpacked, {fault}; get the bundle from its source")
    found, config = tops(members), CONFIG.as_posix()
    if len(found) != 1 or not any(member.name == f"{found[0]}/{config}" for member in members):
        raise ValueError(
            f"{file}: not a bundle's zip, which holds one folder NAME/ with NAME/{config}; "
            f"this one holds {', '.join(found[:5]) or 'nothing'}"
        )
    return found[0]


def _unpack(archive: zipfile.ZipFile, place: Path) -> None:
    """All of it or nothing: into a folder beside ``place``, then renamed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        archive.extractall(partial)
        try:
            partial.rename(place)
        except OSError:
            if not place.is_dir():  # another process was first with the same content
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
