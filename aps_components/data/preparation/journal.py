"""What is done already, so that a preparation that was stopped goes on where it was.

One JSON line per finished case, appended as it finishes. A line that a kill cut short is passed over.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aps_components.data.preparation.cases import Layout, Outcome, RawCase
from aps_components.line_file import LineFile

FILE = "preparation_state.jsonl"
VERSION = 1  # raise it when `process` of a layout does something else


class Journal:
    """The finished cases of one output folder.

    Args:
        out: the output folder; it must exist.
        raw: the download's folder; moved together with `out`, its cases are still recognised.
        layout: what is done with each case.
    """

    def __init__(self, out: Path, *, raw: Path, layout: Layout) -> None:
        self._out, self._raw = out, raw
        self._what = [VERSION, layout.name, layout.processing()]
        self._file = LineFile(out / FILE)
        self._done = _read(self._file)
        self._file.keep(_line(key, outcome) for key, outcome in self._done.items())

    def find(self, case: RawCase) -> Outcome | None:
        """The outcome of a case whose files are as they were, source and output; None if there is work to do."""
        outcome = self._done.get(self._key(case))
        if outcome and all(_size(self._out / file) == size for file, size in outcome.written.items()):
            return outcome
        return None

    def add(self, case: RawCase, outcome: Outcome) -> None:
        """Remember a sound case; a broken one is looked at again the next time."""
        if outcome.fault:
            return
        key = self._key(case)
        self._done[key] = outcome
        self._file.append(_line(key, outcome))

    def _key(self, case: RawCase) -> str:
        """Changes with the sources' names, sizes and times, with the place of output and with what is done."""
        files = [*case.images, *([case.label] if case.label else [])]
        sources = []
        for file in files:
            state = os.stat(file) if os.path.exists(file) else None
            stamp = [state.st_size, state.st_mtime_ns] if state else None
            sources.append([Path(os.path.relpath(file, self._raw)).as_posix(), stamp])
        place = Path(os.path.relpath(self._raw, self._out)).as_posix()
        content = json.dumps([*self._what, case.name, bool(case.label), place, sources], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def _read(file: LineFile) -> dict[str, Outcome]:
    done: dict[str, Outcome] = {}
    for entry in file.whole(keys=("key", "outcome")):
        try:
            outcome = Outcome(**entry["outcome"])
        except TypeError:
            continue
        if isinstance(entry["key"], str) and _is_sound(outcome):
            done[entry["key"]] = outcome
    return done


def _is_sound(outcome: Outcome) -> bool:
    """Whether everything is of the type that it was written with."""
    objects = outcome.item, outcome.facts, outcome.written
    if not all(isinstance(part, dict) for part in objects) or not isinstance(outcome.notes, list):
        return False
    texts = [outcome.fault, *outcome.notes]
    sizes = [type(size) is int and _is_inside(file) for file, size in outcome.written.items()]
    return all(isinstance(text, str) for text in texts) and all(sizes)


def _is_inside(file: str) -> bool:
    return not os.path.isabs(file) and ".." not in Path(file).parts


def _line(key: str, outcome: Outcome) -> dict[str, Any]:
    return {"key": key, "outcome": asdict(outcome)}


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None
