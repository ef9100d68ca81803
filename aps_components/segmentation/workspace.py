"""A folder for what is not finished: it goes with the process, or, if that was killed, with the next call."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: leftovers stay
    fcntl = None  # type: ignore[assignment]

PREFIX, LOCK = ".segmenting-", ".lock"


@contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder in another, on the same disk; those that no process works in any more are removed.

    A lock tells, which the system takes back from a process however it ends. It lies beside the hidden folder, and is
    there before it.
    """
    clear_left_over(folder)
    while True:
        number, lock = tempfile.mkstemp(prefix=PREFIX, suffix=LOCK, dir=folder)
        if _is_taken(number, lock):
            break
        os.close(number)
    work = Path(lock.removesuffix(LOCK))
    try:
        work.mkdir(mode=0o700)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(number)
        Path(lock).unlink(missing_ok=True)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for the same folder."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network drives cannot lock
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def clear_left_over(folder: Path) -> None:
    """Remove what killed processes left behind; it holds parts of their scans."""
    if fcntl is None:
        return
    for name in {path.name.removesuffix(LOCK) for path in folder.glob(f"{PREFIX}*")}:
        lock = folder / f"{name}{LOCK}"
        try:
            number = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            continue  # another user's
        if _is_taken(number, lock):
            shutil.rmtree(folder / name, ignore_errors=True)
            lock.unlink(missing_ok=True)
        os.close(number)


def _is_taken(number: int, lock: str | os.PathLike[str]) -> bool:
    """Lock an open file, unless another process has it, or has removed it meanwhile."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.stat(lock).st_ino == os.fstat(number).st_ino
    except OSError:
        return False
