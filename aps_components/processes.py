"""Processes that end with the one that started them, however that ends.

A process that is killed outright cleans up nothing: what it started would run on, and write on into the folder in
which the next call carries on. On Linux the kernel sends a signal when a parent is gone; elsewhere a process between
the two waits for the end of a pipe that the parent holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1  # linux/prctl.h
THREADS = "OMP_NUM_THREADS"  # of the environment: threads that a process takes
ORPHANED = 137  # the exit status of what was killed
KILL_LATER = """
import contextlib, os, signal, sys, time
time.sleep(float(sys.argv[1]))
with contextlib.suppress(ProcessLookupError):
    os.killpg(int(sys.argv[2]), signal.SIGKILL)
"""


class CommandFailedError(RuntimeError):
    """A command ended with an error; the message is its last line and its log."""


class CommandStopped(RuntimeError):
    """A command was asked to stop, and has ended."""


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """``Popen`` of a command that is killed when this process, or the thread that calls this, is no more."""
    wrapped = [sys.executable, "-m", "aps_components.processes", str(os.getpid()), *command]
    pipe = subprocess.DEVNULL if sys.platform.startswith("linux") else subprocess.PIPE
    return subprocess.Popen(wrapped, stdin=pipe, **options)


def run_logged(
    command: Sequence[str],
    *,
    log: str | os.PathLike[str],
    stop: threading.Event,
    threads: int | None = None,
    variables: Mapping[str, str] | None = None,
    look: Callable[[], None] = lambda: None,
    seconds: float = 2.0,
) -> None:
    """Run a command to its end, as :func:`start` does, with all that it says at the end of a file.

    Args:
        command: and its arguments.
        log: made with its folder, if it is missing.
        stop: ends the command, from another thread.
        threads: that it may compute with; None leaves it to the environment.
        variables: further ones of its environment.
        look: called after every ``seconds``, and once more when the command has ended.

    Raises:
        CommandFailedError: it failed.
        CommandStopped: ``stop`` was set.
    """
    file = Path(log)
    file.parent.mkdir(parents=True, exist_ok=True)
    environ = {**os.environ, **(variables or {}), **({} if threads is None else {THREADS: str(threads)})}
    with open(file, "a", encoding="utf-8") as stream:
        process = start(command, stdout=stream, stderr=subprocess.STDOUT, env=environ)
        try:
            while process.poll() is None and not stop.wait(seconds):
                look()
            if process.poll() is None:
                raise CommandStopped
            look()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        last = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise CommandFailedError(f"{' '.join(last)} (all of it: {file})")


def cores() -> int:
    """That this process may use; where the environment says how many threads, no more than those."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get(THREADS, "")
    return min(there, int(asked)) if asked.isdecimal() and int(asked) else there


def die_with(parent: int) -> None:
    """On Linux: have this process killed as soon as ``parent``, which started it, is gone."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # gone before this line
            os._exit(ORPHANED)


def end_with_pipe(pipe: Any, *, seconds: float = 10.0) -> threading.Thread:
    """Watch ``pipe``, whose other end the parent holds: when that ends, so does this process's whole group.

    Args:
        pipe: to read from.
        seconds: that the group has between the signal to end and the one that kills it.
    """

    def watch() -> None:
        with contextlib.suppress(OSError, ValueError):
            while os.read(pipe.fileno(), 1):  # no buffer, whose lock a thread holds at the interpreter's end
                pass
        end_group(seconds)

    thread = threading.Thread(target=watch, name="parent watch", daemon=True)
    thread.start()
    return thread


def end_group(seconds: float) -> None:
    """End every process of this one's group, and this one."""
    if hasattr(os, "killpg"):
        kill = [sys.executable, "-c", KILL_LATER, str(seconds), str(os.getpgrp())]
        with contextlib.suppress(OSError, RuntimeError):
            subprocess.Popen(kill, start_new_session=True)  # of another group: the signal to end may end this process
        os.killpg(0, signal.SIGTERM)
        threading.Event().wait(2 * seconds)
    os._exit(ORPHANED)


def main(arguments: Sequence[str]) -> int:
    """Run a command tied to the parent whose number comes first."""
    parent, command = int(arguments[0]), list(arguments[1:])
    if sys.platform.startswith("linux"):
        die_with(parent)
        os.execvp(command[0], command)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def end(*_: Any) -> None:
        process.terminate()

    def watch() -> None:
        while sys.stdin.buffer.read(1):
            pass
        process.kill()

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=watch, daemon=True).start()
    return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
