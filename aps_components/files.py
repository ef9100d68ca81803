"""Files that appear whole or not at all, and what identifies one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK = 1 << 20


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden name beside ``path`` to write to; when the block ends well, that file takes the place of ``path``.

    A process killed at any moment leaves the old file or the new one, never a part of one; what it had written under
    the hidden name is written over next time. The name keeps the ending, by which some libraries choose a format.
    """
    path = Path(path)
    unfinished = path.with_name(f".unfinished.{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def replace_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text, UTF-8, whole or not at all; of a file name that is no UTF-8 the odd bytes become ``\\udcff``."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits, read in small parts."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
