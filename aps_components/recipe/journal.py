"""What of a whole training is done, in ``OUT/work/journal.json``: after any end it goes on from there."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from aps_components.files import replace_text
from aps_components.options import differences
from aps_components.plain_json import read_object
from aps_components.report.training import WORK

JOURNAL, COMMANDS = "journal.json", "commands.sh"
MEND = "give the same, or another --out"
SECONDS_BETWEEN_WRITES = 5.0


class Journal:
    """Everything that a training in ``out`` has to remember; whoever calls may be any thread.

    Args:
        out: the folder of the whole training.
        asked: what makes it the one it is, of JSON's types: another one is refused, once its first stage has begun.

    Raises:
        ValueError: the folder holds a training that was asked for otherwise, or something else.
    """

    def __init__(self, out: Path, asked: Mapping[str, Any]) -> None:
        self.out, self.work = out, out / WORK
        self.file = self.work / JOURNAL
        self._lock = Lock()
        self._begun = time.monotonic()
        plain: dict[str, Any] = json.loads(json.dumps(dict(asked)))
        found = read_object(self.file, keys=("asked",), mend=MEND) if self.file.is_file() else None
        others = [entry.name for entry in out.iterdir() if not entry.name.startswith(".")] if out.is_dir() else []
        if found is not None and not found.get("stages") and found["asked"] != plain:
            found = None  # it was refused before it began: its options may be mended
        elif found is None and others:
            raise ValueError(f"{out} holds {min(others)}, and no training of aps train: give an empty folder by --out")
        if found is not None and _recipe_names(found["asked"]) != _recipe_names(plain):
            raise ValueError(
                f"{out} holds a training that another version began, by another recipe: give another --out"
            )
        if found is not None and (different := differences(found["asked"], plain)):
            raise ValueError(f"{out} holds a training with other options ({different}): {MEND}")
        self._content: dict[str, Any] = {**_empty(plain), **(found or {})}
        self._before = float(self._content["worked"])
        self._written = 0.0

    @property
    def worked(self) -> float:
        """Seconds since the beginning, without those between an end and the next call."""
        return self._before + time.monotonic() - self._begun

    def begin_anew(self) -> None:
        """Forget what was found out about scans that are others now."""
        with self._lock:
            self._content["facts"] = {}

    def recall(self, name: str) -> Any:
        """What was remembered under a name; None for nothing."""
        return self._content["facts"].get(name)

    def remember(self, name: str, value: Any) -> None:
        """Keep something of JSON's types."""
        with self._lock:
            self._content["facts"][name] = json.loads(json.dumps(value))
            self._write()

    def is_done(self, stage: str) -> bool:
        """Whether a stage has ended well."""
        return bool(self._content["stages"].get(stage, {}).get("done"))

    @property
    def done(self) -> int:
        """How many stages have ended well."""
        with self._lock:
            return sum(bool(stage["done"]) for stage in self._content["stages"].values())

    def begin(self, stage: str, command: Sequence[str], *, folder: Path | None = None) -> None:
        """A stage begins, or goes on."""
        with self._lock:
            entry = self._content["stages"].setdefault(stage, {"seconds": 0.0, "done": False})
            entry |= {"command": list(command), "folder": None if folder is None else os.path.relpath(folder, self.out)}
            self._write()

    def add(self, stage: str, seconds: float, *, done: bool = False) -> None:
        """A stage has worked for some more seconds."""
        with self._lock:
            entry = self._content["stages"][stage]
            entry["seconds"] = round(entry["seconds"] + seconds, 2)
            entry["done"] = entry["done"] or done
            if done or time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
                self._write()

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """By name, in the order of their beginnings: ``command``, ``seconds``, ``done``, ``folder``."""
        with self._lock:
            return json.loads(json.dumps(self._content["stages"]))

    def _write(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        self._content["worked"] = round(self.worked, 1)
        self._written = time.monotonic()
        replace_text(self.file, json.dumps(self._content, indent=1) + "\n")
        replace_text(self.out / COMMANDS, _script(typed_command(), self._content["stages"]))


def _recipe_names(asked: Mapping[str, Any]) -> set[str]:
    recipe = asked.get("recipe")
    return set(recipe) if isinstance(recipe, Mapping) else set()


def _empty(asked: dict[str, Any]) -> dict[str, Any]:
    return {"asked": asked, "worked": 0.0, "stages": {}, "facts": {}}


def typed_command() -> str:
    """The ``aps train`` that this process is, as it was typed; empty where Python called it."""
    return shlex.join(["aps", *sys.argv[1:]]) if sys.argv[1:2] == ["train"] else ""


def _script(typed: str, stages: Mapping[str, Mapping[str, Any]]) -> str:
    """The commands as a user would type them."""
    lines = ["# What was run, in this order; some of it beside each other.", ""]
    if typed:
        lines = [
            "# All of this is one command:",
            f"# {typed}",
            "# Its parts need what it writes between them.",
            "",
            *lines,
        ]
    for name, stage in stages.items():
        command = shlex.join(["python", *stage["command"][1:]]) if stage["command"] else "# (no command of its own)"
        lines += [f"# {name}", command, ""]
    return "\n".join(lines)
