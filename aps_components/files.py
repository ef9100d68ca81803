"""Files that appear whole or not at all, and what identifies one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aps_components.errors import CANNOT, STORAGE_FAULTS, interrupted, storage_fault

BLOCK = 1 << 20
HIDDEN = ".unfinished."
KEPT_OF_NAME = 60  # letters at its end, so that a long name stays one that the system takes
MARK = re.compile(re.escape(HIDDEN) + r"([0-9a-f]{4})-(\d+)-[0-9a-f]{8}\.")


def expanded(path: str | os.PathLike[str]) -> Path:
    """With the home folder in the place of a "~", as a shell has it: that of a user whom nobody knows stays a name."""
    return Path(os.path.expanduser(path))


def real(path: str | os.PathLike[str]) -> Path:
    """Absolute, with links followed. Links that lead back to themselves stay, for whoever opens it to say so."""
    return Path(os.path.realpath(path))


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden name beside ``path`` to write to; when the block ends well, that file takes the place of ``path``.

    A process killed at any moment leaves the old file or the new one, never a part of one; what it had written under
    the hidden name is cleared away next time. No other process writes to that name, so that two that write the same
    file at once leave the one's or the other's. The name keeps the ending, by which some libraries choose a format.

    Raises:
        OSError: the disk is full, or takes no file of this size; names the file, whatever a library made of that. Or
            something else than a file lies there.
    """
    path = Path(path)
    refuse_special(path)
    _clear(path)
    unfinished = path.with_name(f"{_mark()}{os.getpid()}-{uuid.uuid4().hex[:8]}.{path.name[-KEPT_OF_NAME:]}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except Exception as error:
        if interrupted(error):  # Ctrl-C while a library wrote, which made an error of its own of it
            raise KeyboardInterrupt from None
        fault = storage_fault(error) or _full_disk(path, error)
        if fault is not None and not str(fault.strerror).startswith(CANNOT):  # said already, of a file written within
            raise OSError(fault.errno, f"{CANNOT} {path}: {fault.strerror}") from error
        if isinstance(error, OSError) and str(error.filename) == str(unfinished):  # a name that nobody gave
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def ensure_writable(directory: str | os.PathLike[str]) -> Path:
    """Make the directory and try to write into it, before hours of work depend on it.

    Raises:
        PermissionError: naming the directory.
    """
    if "::" in str(directory):
        raise ValueError(f"{directory}: MONAI puts :: in the place of # in a path; give a folder without it")
    directory = Path(directory)
    probe = directory / f".writable.{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "it is a file or a broken link, or lies in one" if is_file else error.strerror
        raise PermissionError(
            f"cannot write into {directory}: {reason}; choose another folder or change its permissions"
        ) from error
    return directory


def refuse_special(path: str | os.PathLike[str], *, ending: str = "") -> None:
    """Refuse what is a folder, a pipe or a device where a file is read or written.

    Args:
        path: of the file.
        ending: that its name must have.

    Raises:
        FileExistsError: there lies something else.
        ValueError: the name has another ending.
    """
    path = Path(path)
    if not path.name.lower().endswith(ending):
        raise ValueError(f"{path}: a file for this ends in {ending}; name one such as {path.name}{ending}")
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{path} is {'a folder' if path.is_dir() else 'no regular file'}: name another file")


def replace_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text, UTF-8, whole or not at all; of a file name that is no UTF-8 the odd bytes become ``\\udcff``."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Add a line to a file, whole or not at all.

    Raises:
        OSError: names the file, which the system does not where the disk is full.
    """
    with open(path, "ab", buffering=0) as stream:
        end, left = stream.tell(), memoryview(f"{line}\n".encode())
        try:
            while left:
                left = left[stream.write(left) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(path, end)
            fault = storage_fault(error) or error
            raise OSError(fault.errno, f"{CANNOT} {os.fspath(path)}: {fault.strerror}") from error


def copy_whole(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Copy a file with its times and permissions, whole or not at all."""
    with replacing(path) as unfinished:
        shutil.copy2(source, unfinished)


def copy_folder(source: str | os.PathLike[str], target: str | os.PathLike[str], *, last: str = "") -> None:
    """Copy a folder into another, file by file as :func:`copy_whole` does; what Python compiled is left out.

    Args:
        source: the folder.
        target: made if missing; files of the same names are replaced.
        last: a file that tells by being there that all of it is, and so comes last.
    """
    source = Path(source)
    files = [file for file in sorted(source.rglob("*")) if file.is_file() and "__pycache__" not in file.parts]
    for file in sorted(files, key=lambda file: file == source / last):
        path = Path(target) / file.relative_to(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        copy_whole(file, path)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits, read in small parts.

    Raises:
        FileExistsError: there lies a folder, or a pipe, for which one would wait for ever.
    """
    refuse_special(path)
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def is_running(process: int) -> bool:
    """Whether there is a process of this number on this machine; where one cannot ask without harm, yes."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _full_disk(path: Path, error: Exception) -> OSError | None:
    """A library that says nothing of the disk, which is full."""
    if not isinstance(error, RuntimeError | OSError):
        return None
    try:
        full = shutil.disk_usage(path.parent).free < BLOCK
    except OSError:
        return None
    mend = STORAGE_FAULTS[errno.ENOSPC]
    return OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}; {mend}") if full else None


def _mark() -> str:
    """Of this machine: elsewhere a process of the same number is another one."""
    machine = hashlib.sha256(socket.gethostname().encode(errors="replace")).hexdigest()[:4]
    return f"{HIDDEN}{machine}-"


def _clear(path: Path) -> None:
    """What processes of this machine that are no more left of the same file."""
    ending = f".{path.name[-KEPT_OF_NAME:]}"
    with contextlib.suppress(OSError):
        for entry in os.scandir(path.parent):
            found = MARK.match(entry.name) if entry.name.startswith(_mark()) and entry.name.endswith(ending) else None
            if found and not is_running(int(found[2])):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
