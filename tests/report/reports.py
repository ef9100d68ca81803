"""What a report says, read as a browser would: its texts, tables, pictures, and everything that it points to."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

POINTING = ("src", "href", "srcset", "data", "action", "poster", "background", "formaction")
VOID = {"meta", "img", "br", "link"}


@dataclass
class Report(HTMLParser):
    """A page taken apart."""

    path: Path
    tags: list[str] = field(default_factory=list)
    pointers: list[str] = field(default_factory=list)
    images: list[tuple[str, str]] = field(default_factory=list)
    """What each shows in words, and its address."""
    tables: list[list[list[str]]] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    words: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.source = self.path.read_text(encoding="utf-8")
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self._open == [], "an element is not closed"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        given = dict(attributes)
        assert not any(name.startswith("on") for name in given), f"{tag} would run code"
        self.pointers += [given[name] for name in POINTING if given.get(name)]
        if tag == "img":
            self.images.append((given["alt"], given["src"]))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag in ("h1", "h2"):
            self.titles.append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" in self._open:
            return
        self.words += data
        if self._open and self._open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if self._open and self._open[-1] in ("h1", "h2"):
            self.titles[-1] += data

    def table(self, *head: str) -> list[list[str]]:
        """The rows of the one whose head begins so."""
        (found,) = [table for table in self.tables if tuple(table[0][: len(head)]) == head]
        return found[1:]

    def pictures(self, word: str) -> list[tuple[str, Image.Image]]:
        """Photographs whose description holds a word."""
        kind = "data:image/jpeg;base64,"
        found = [(alt, src) for alt, src in self.images if word in alt and src.startswith(kind)]
        return [(alt, Image.open(io.BytesIO(base64.b64decode(src.removeprefix(kind))))) for alt, src in found]


def read_report(path: Path) -> Report:
    """A report that asks for nothing from outside, runs no code, and closes what it opens."""
    report = Report(path)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(report.tags)
    assert all(pointer.startswith(("data:image/", "#")) for pointer in report.pointers)
    text = re.sub(r'"data:image/[^"]+"', "", report.source)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", text)
    drawn = [base64.b64decode(src.partition(",")[2]) for _, src in report.images if "svg+xml" in src]
    assert not any(b"<script" in svg or b"<image" in svg for svg in drawn)
    return report
