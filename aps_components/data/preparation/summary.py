"""The files that a preparation leaves beside the scans, and what it prints."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aps_components.data.datalist import DATALIST
from aps_components.data.errors import DataError
from aps_components.files import ensure_writable, expanded, replace_text

SUMMARY = "preparation.json"
PARTS = ("training", "unlabeled", "validation", "test")
LINES_SHOWN = 20


@dataclass(frozen=True)
class Summary:
    """What a preparation came to.

    Args:
        dataset: short name.
        out: the output folder.
        options: as given, for the record.
        counts: part -> number of cases.
        rule: how the split came about.
        digest: SHA-256 of the split.
        left_out: case name -> why.
        notes: everything else worth saying.
        cases: case name -> part and facts.
    """

    dataset: str
    out: Path
    options: Mapping[str, Any]
    counts: Mapping[str, int]
    rule: str
    digest: str
    left_out: Mapping[str, str]
    notes: list[str]
    cases: Mapping[str, Mapping[str, Any]]

    def text(self) -> str:
        """For a terminal."""
        counts = ", ".join(f"{part} {count}" for part, count in self.counts.items())
        lines = [f"{self.dataset}: {counts}; left out {len(self.left_out)}", f"  split: {self.rule}"]
        lines.append(f"  SHA-256 of the split: {self.digest}")
        lines += [f"  note: {note}" for note in self.notes[:LINES_SHOWN]]
        lines += _more(self.notes)
        lines += [f"  left out: {name}: {reason}" for name, reason in list(self.left_out.items())[:LINES_SHOWN]]
        lines += _more(self.left_out)
        return "\n".join([*lines, f"  all of this: {self.out / SUMMARY}"])

    def write(self) -> None:
        """To OUT/preparation.json."""
        content = {
            "dataset": self.dataset,
            "options": dict(self.options),
            "counts": dict(self.counts),
            "split": {"rule": self.rule, "sha256": self.digest},
            "notes": self.notes,
            "left_out": dict(self.left_out),
            "cases": {name: dict(facts) for name, facts in self.cases.items()},
        }
        write_json(self.out / SUMMARY, content)


def write_json(path: Path, content: object) -> None:
    """Write a file that is there in full or not at all."""
    replace_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def output_folder(out: str | os.PathLike[str]) -> Path:
    """Make the output folder; refuse one that cannot be written to or has a datalist of someone else's."""
    folder = ensure_writable(os.path.abspath(expanded(out)))
    if (folder / DATALIST).is_file() and not (folder / SUMMARY).is_file():
        raise DataError(
            f"{folder / DATALIST}: was not written by a preparation and would be lost; give another folder with --out"
        )
    return folder


def _more(lines: Mapping[str, str] | list[str]) -> list[str]:
    more = len(lines) - LINES_SHOWN
    return [f"  ... and {more} more"] if more > 0 else []
