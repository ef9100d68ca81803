"""What a page is made of. Nothing in it is HTML: the template writes that, and escapes every text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Cell:
    """Of a table; the nearer its shade is to 1, the redder it is."""

    text: str
    shade: float = 0.0


@dataclass(frozen=True)
class Table:
    """Rows under a head; the first columns are names, the others figures."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    names: int = 1
    note: str = ""


@dataclass(frozen=True)
class Facts:
    """Names and values, one below the other."""

    kind: ClassVar[str] = "facts"
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Picture:
    """An image inside the page."""

    kind: ClassVar[str] = "picture"
    source: str
    """A ``data:`` address."""
    description: str
    """For those who do not see it."""
    caption: str = ""


@dataclass(frozen=True)
class Commands:
    """As one types them."""

    kind: ClassVar[str] = "commands"
    lines: Sequence[str]


Block = Text | Table | Facts | Picture | Commands


@dataclass(frozen=True)
class Section:
    """A part of the page under a title of its own."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    about: str
    """What it is of, in a line."""
    headline: Sequence[tuple[str, str]] = ()
    """The figures that matter most, each with what it is."""
    sections: Sequence[Section] = field(default_factory=tuple)
