"""What is found in an official download: its cases, and what stands in their way."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from aps_components.data.errors import DataError
from aps_components.data.modalities import stem

ENTRIES_SHOWN = 8


@dataclass(frozen=True)
class RawCase:
    """One case of a download.

    Args:
        name: unique in the download.
        images: its files, in channel order.
        label: None where there is none, or where it must not be read.
        held_back: it lies where the download keeps its test cases.
    """

    name: str
    images: tuple[str, ...]
    label: str | None = None
    held_back: bool = False

    def without_label(self) -> RawCase:
        """The same case, its label out of reach."""
        return replace(self, label=None)


@dataclass
class Findings:
    """The cases of a download.

    Args:
        cases: in any order; no name twice.
        left_out: name of a case that cannot be used -> why.
        notes: what the summary should say.
    """

    cases: list[RawCase] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, case: RawCase) -> None:
        """Add a case, or leave it out if its name is taken."""
        taken = next((other for other in self.cases if other.name == case.name), None)
        if taken is None:
            self.cases.append(case)
        else:
            name = f"{case.name} ({os.path.dirname(case.images[0])})"
            self.left_out[name] = f"{taken.images[0]} has the same case name; keep one of the two, or rename its folder"


@dataclass(frozen=True)
class Outcome:
    """What came of reading one case.

    Args:
        item: its entry of the datalist, with paths relative to the output folder; empty if the case is broken.
        fault: why it is left out.
        facts: about its label and its grid, to be summed up over the cases.
        notes: what the summary should say.
        written: output file, relative -> its size in bytes.
    """

    item: dict[str, Any] = field(default_factory=dict)
    fault: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    written: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """Which case goes where.

    Args:
        parts: of the datalist ("training", "unlabeled", "validation", "test") -> their cases, in order.
        rule: how the order came about.
        left_out: case name -> why no part takes it.
        notes: what the summary should say.
    """

    parts: dict[str, list[RawCase]]
    rule: str
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Layout(Protocol):
    """An official download: where its files lie, how they are divided and what is done with each case."""

    @property
    def name(self) -> str:
        """Short name, for the datalist."""

    @property
    def labels(self) -> Mapping[int, str]:
        """Class value to class name."""

    def find(self, raw: Path, *, skip: Path) -> Findings:
        """Look for the cases by file name; the folder `skip` is not searched."""

    def split(self, cases: list[RawCase], *, seed: int, validation: int | None, labeled: int | None) -> Split:
        """Divide the cases, which no result of reading them changes; labels are still with all of them."""

    def processing(self) -> dict[str, Any]:
        """The options that change what `process` does."""

    def process(self, case: RawCase, out: Path) -> Outcome:
        """Read, check and, where needed, convert one case. Raises DataError if it is broken."""

    def remarks(self, outcomes: Collection[Outcome]) -> list[str]:
        """What the summary should say about all cases together."""


def walk(raw: Path, *, skip: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Every folder with the names of its folders and files, sorted; links are followed, hidden names are left out."""
    seen: set[str] = set()
    for folder, folders, files in os.walk(raw, followlinks=True):
        place, real = Path(folder), os.path.realpath(folder)
        if real in seen or (place != raw and real == os.path.realpath(skip)):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if _shown(name))
        yield place, list(folders), sorted(name for name in files if _shown(name))


def stem_of(file: str) -> str:
    """A file's name without .nii or .nii.gz."""
    return stem(file)


def nothing_found(raw: Path, looked_for: str) -> DataError:
    """The error for a folder that holds none of the official files."""
    names = sorted(os.listdir(raw))
    there = ", ".join(names[:ENTRIES_SHOWN]) + (
        f" and {len(names) - ENTRIES_SHOWN} more" if names[ENTRIES_SHOWN:] else ""
    )
    return DataError(
        f"{raw}: none of the official files; looked for {looked_for}; there is {there or 'nothing'}: "
        "unpack the download and give its folder with --raw"
    )


def _shown(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"
