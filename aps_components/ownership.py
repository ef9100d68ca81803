"""A folder that one process alone may write into at a time, and files that belong together."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aps_components.files import replacing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".in_use.lock"  # where a folder itself cannot be locked
LOCKS = Path("/proc/locks")
PATIENCE = 60.0  # seconds, for what another process is done with soon
PAUSE = 0.05  # seconds, between two tries


class FolderInUseError(RuntimeError):
    """Another process writes into the folder; the message names both."""


_held: dict[str, Any] = {}


def own(folder: str | os.PathLike[str], *, patience: float = 0.0) -> None:
    """Keep every other process from owning a folder, until :func:`release` or this process's end.

    The system drops what a killed process held. A folder that this process owns already is no obstacle.

    Args:
        folder: that is there.
        patience: seconds to wait for another process that owns it.

    Raises:
        FolderInUseError: another process owns it.
    """
    place, deadline = os.path.realpath(folder), time.monotonic() + patience
    while place not in _held:
        try:
            _held[place] = _lock(place)
        except FolderInUseError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(PAUSE)


def release(folder: str | os.PathLike[str]) -> None:
    """Let others own it."""
    held = _held.pop(os.path.realpath(folder), None)
    if isinstance(held, int):
        os.close(held)
    elif held is not None:
        held.release()


@contextmanager
def alone_in(folder: str | os.PathLike[str], *, patience: float = 0.0) -> Iterator[None]:
    """Own a folder for a while, or go on owning it; arguments and errors as of :func:`own`."""
    owned = os.path.realpath(folder) in _held
    own(folder, patience=patience)
    try:
        yield
    finally:
        if not owned:
            release(folder)


@contextmanager
def replacing_together(*paths: str | os.PathLike[str]) -> Iterator[list[Path]]:
    """``replacing`` of files that belong together: where two processes write them at once, one wins all of them.

    Args:
        paths: of the files; the last one takes its place first.

    Raises:
        FolderInUseError: another process owns a folder of theirs for long; none of the files was replaced.
        OSError: as of ``replacing``.
    """
    with ExitStack() as held, ExitStack() as files:
        yield [files.enter_context(replacing(path)) for path in paths]
        for folder in sorted({os.path.realpath(Path(path).parent) for path in paths}):
            held.enter_context(alone_in(folder, patience=PATIENCE))


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
