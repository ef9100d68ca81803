"""Zip files that are the same byte for byte wherever, whenever and by whomever they are written."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

from aps_components.files import replacing, sha256_of

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
    with replacing(path) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, FIRST_DATE)
            entry.create_system = UNIX
            entry.external_attr = (REGULAR_FILE | PERMISSIONS) << 16
            entry.compress_type = zipfile.ZIP_STORED
            archive.writestr(entry, files[name])
    return Path(path)


def copy_file(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """Copy the content of a file, whole or not at all."""
    with replacing(path) as unfinished:
        shutil.copyfile(source, unfinished)
    return Path(path)


def write_checksum(path: Path) -> str:
    """Write ``NAME.sha256`` beside a file, for ``sha256sum -c``; gives the checksum back."""
    digest = sha256_of(path)
    with replacing(path.with_name(f"{path.name}.sha256")) as unfinished:
        unfinished.write_text(f"{digest}  {path.name}\n", encoding="utf-8", newline="\n")
    return digest
