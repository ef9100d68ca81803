"""A folder that one process alone may write into at a time."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".in_use.lock"  # where a folder itself cannot be locked
LOCKS = Path("/proc/locks")


class FolderInUseError(RuntimeError):
    """Another process writes into the folder; the message names both."""


_held: dict[str, Any] = {}


def own(folder: str | os.PathLike[str]) -> None:
    """Keep every other process from owning a folder, until :func:`release` or this process's end.

    The system drops what a killed process held. A folder that this process owns already is no obstacle.

    Raises:
        FolderInUseError: another process owns it.
    """
    place = os.path.realpath(folder)
    if place not in _held:
        _held[place] = _lock(place)


def release(folder: str | os.PathLike[str]) -> None:
    """Let others own it."""
    held = _held.pop(os.path.realpath(folder), None)
    if isinstance(held, int):
        os.close(held)
    elif held is not None:
        held.release()


@contextmanager
def alone_in(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Own a folder for a while; errors as of :func:`own`."""
    own(folder)
    try:
        yield
    finally:
        release(folder)


def _lock(place: str) -> Any:
    """A descriptor of the folder, locked; where its file system cannot do that, a lock file in it."""
    if fcntl is not None:
        descriptor = os.open(place, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _owner(descriptor)
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise FolderInUseError(_said(place, owner)) from None
        else:
            return descriptor
    lock = FileLock(os.path.join(place, LOCK_FILE), blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise FolderInUseError(_said(place, None)) from None
    except NotImplementedError:  # no locks at all there
        return None
    return lock


def _said(place: str, owner: int | None) -> str:
    who = "another process" if owner is None else f"process {owner}"
    return f"{place}: {who} is writing into this folder; wait for it, end it, or give another folder"


def _owner(descriptor: int) -> int | None:
    """Of the lock on a descriptor's file, if this system says it."""
    state = os.fstat(descriptor)
    file = f"{os.major(state.st_dev):02x}:{os.minor(state.st_dev):02x}:{state.st_ino}"
    try:
        lines = [line.split() for line in LOCKS.read_text().splitlines()]
    except OSError:
        return None
    owners = [int(line[4]) for line in lines if len(line) > 5 and line[1] == "FLOCK" and line[5] == file]
    return next((owner for owner in owners if owner > 0), None)


def _forget_in_child() -> None:
    """A forked copy, such as a worker that loads data, owns nothing: it may live on when its parent is gone."""
    for held in _held.values():
        if isinstance(held, int):
            os.close(held)
    _held.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_in_child)
