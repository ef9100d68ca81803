"""Zip files that are the same byte for byte wherever, whenever and by whomever they are written."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can hold
UNIX, REGULAR_FILE, PERMISSIONS = 3, 0o100000, 0o644
BLOCK = 1 << 20


def write_archive(path: str | os.PathLike[str], files: Mapping[str, bytes]) -> Path:
    """Write a zip file, whole or not at all.

    Names are sorted, dates and permissions fixed. Nothing is compressed: what deflate makes of a file differs from one
    zlib to another, and weights, by far the largest part, hardly shrink.

    Args:
        path: of the zip file; one that is there is replaced.
        files: name in the archive, with "/", to content.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name in sorted(files):
                entry = zipfile.ZipInfo(name, FIRST_DATE)
                entry.create_system = UNIX
                entry.external_attr = (REGULAR_FILE | PERMISSIONS) << 16
                entry.compress_type = zipfile.ZIP_STORED
                archive.writestr(entry, files[name])
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def copy_file(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """Copy the content of a file, whole or not at all."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(source, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_checksum(path: Path) -> str:
    """Write ``NAME.sha256`` beside a file, for ``sha256sum -c``; gives the checksum back."""
    digest = sha256(path)
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n", encoding="ascii", newline="\n")
    return digest
