"""What is unpacked of an archive that is not trusted: plain files inside of its folder, and no more than there is."""

from __future__ import annotations

import lzma
import os
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

MAX_RATIO, RATIO_FROM = 1000, 2**20  # compression of a member, asked from these bytes on; JSON reaches about 20
RATIO_FROM_ALL = 64 * 2**20  # of all members together: many small ones are a large one, too
LONGEST_NAME = 255  # bytes, of a file in its folder
# What the readers of damaged archives raise, beside errors of the disk.
DAMAGES = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, struct.error),
    *(NotImplementedError, RuntimeError, ValueError, IndexError, OverflowError),
)


class Member(NamedTuple):
    """Of an archive.

    Attributes:
        name: with "/" between its parts.
        size: bytes, unpacked.
        packed: bytes in the archive; None where each has none of its own.
        folder: whether it is one.
        special: a link, a device or a pipe.
        encrypted: whether a password is needed.
    """

    name: str
    size: int
    packed: int | None = None
    folder: bool = False
    special: bool = False
    encrypted: bool = False


def zip_members(archive: zipfile.ZipFile) -> list[Member]:
    """All members of a zip."""
    return [_zip_member(entry) for entry in archive.infolist()]


def tar_member(entry: tarfile.TarInfo) -> Member:
    """A member of a tar."""
    return Member(entry.name, entry.size, folder=entry.isdir(), special=not (entry.isreg() or entry.isdir()))


def damaged_member(path: str | os.PathLike[str]) -> str | None:
    """The first member of a zip file that is not as it was packed, by its checksum; None where all are.

    PyTorch compares no checksum of the weights that it reads. A file that is no zip is not looked into.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except DAMAGES as error:
        return str(error) or type(error).__name__


def archive_fault(members: Sequence[Member], *, size: int, most_files: int, most_bytes: int) -> str:
    """Why an archive is not to be unpacked: a member, or all together; empty where nothing is against it.

    Args:
        members: all of them.
        size: of the archive, bytes; members may share its bytes.
        most_files, most_bytes: of all together.
    """
    for member in members:
        if fault := _fault(member):
            return f"{member.name[:200]!r} {fault}"
    total = sum(member.size for member in members)
    if None not in (packed := [member.packed for member in members]):
        size = min(size, sum(part for part in packed if part is not None))
    if total > RATIO_FROM_ALL and total > MAX_RATIO * max(1, size):
        return f"it would become {total // 2**20} MiB of {size // 2**20} MiB"
    if len(members) > most_files or total > most_bytes:
        return f"over {most_files} files or {most_bytes / 2**30:.3g} GiB"
    names = [_parts(member.name) for member in members]
    if len(set(names)) < len(names):
        return "it holds two files of the same name"
    files = {name for name, member in zip(names, members, strict=True) if not member.folder}
    if inside := next((name for name in names if any(name[:end] in files for end in range(1, len(name)))), None):
        return f"{'/'.join(inside)[:200]!r} lies in what is a file"
    return ""


def tops(members: Iterable[Member]) -> list[str]:
    """Names of what lies at the top."""
    return sorted({PurePosixPath(member.name).parts[0] for member in members})


def _zip_member(entry: zipfile.ZipInfo) -> Member:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    return Member(
        entry.filename,
        entry.file_size,
        packed=entry.compress_size,
        folder=entry.is_dir(),
        special=bool(kind) and not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)),
        encrypted=bool(entry.flag_bits & 1),
    )


def _parts(name: str) -> tuple[str, ...]:
    """Without regard to case, as some disks take names."""
    return tuple(part.casefold() for part in PurePosixPath(name).parts)


def _fault(member: Member) -> str | None:
    name, path = member.name, PurePosixPath(member.name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        return "leads out of its folder"
    too_long = max(len(part.encode(errors="surrogateescape")) for part in path.parts) > LONGEST_NAME
    if too_long or str(path) != name.removesuffix("/") or any(unicodedata.category(x) in ("Cc", "Cs") for x in name):
        return "is no plain name of a file"
    if member.special:
        return "is a link or another special file"
    if member.encrypted:
        return "is encrypted"
    if member.packed is not None and member.size > RATIO_FROM and member.size > MAX_RATIO * max(1, member.packed):
        return f"would unpack to {member.size // 2**20} MiB from {member.packed} bytes"
    return None
