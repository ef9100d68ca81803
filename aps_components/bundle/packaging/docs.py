"""The pages of a packaged bundle: the project's pages that they link to come along, and no link leads out of it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator
from pathlib import Path

LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z+.-]*:")
BEGIN, END = "<!-- of this package -->", "<!-- of every package -->"
NOTICE = re.compile(rf"\n?{BEGIN}\n.*?\n{END}\n", re.DOTALL)
PROJECT_PAGES = "docs/project"  # where the project's docs/ lie in a package


class PackagedPages:
    """Rewrites the links of a bundle's pages, and gathers the project's pages that they lead to.

    Links are read as if the bundle lay in the project's ``bundles`` folder, wherever it really is: a copy of it
    elsewhere gives the same package.

    Args:
        bundle: folder of the bundle.
        project: folder that holds the project's ``docs``.
        names: all files that the package holds, or is to hold.

    Attributes:
        files: name in the package to content, for every page and for every picture of the project's that one shows.
        faults: links of the bundle's own pages that lead nowhere.
    """

    def __init__(self, bundle: Path, *, project: Path, names: Collection[str]) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self._bundle, self._project, self._names = bundle, project, names
        self._home = f"bundles/{bundle.name}"
        for name in sorted(names):
            if name.endswith(".md") and not name.startswith("aps_components/") and (bundle / name).is_file():
                self._add(f"{self._home}/{name}", name)

    def _add(self, source: str, name: str) -> None:
        """A file of the project's tree, and all that it links to."""
        content = self._path(source).read_bytes()
        self.files[name] = content  # before its links are followed, one of which may lead back to it
        if name.endswith(".md"):
            text = content.decode("utf-8")
            self.files[name] = LINK.sub(lambda link: self._rewritten(link, source, name), text).encode()

    def _rewritten(self, link: re.Match[str], source: str, name: str) -> str:
        path, mark, anchor = link["target"].partition("#")
        if not path or ADDRESS.match(link["target"]):
            return link[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        packaged = self._name(target)
        is_known = packaged is not None and _holds(self._names, packaged)
        is_there = is_known or (not target.startswith("../") and self._path(target).exists())
        if not is_there and not name.startswith(PROJECT_PAGES):
            self.faults.append(f"{name}: links to {path}, which is not there; mend the link")
            return link[0]
        if packaged is None or not is_there:  # another bundle, or a file of the repository alone
            return link["text"]
        if packaged.startswith(f"{PROJECT_PAGES}/"):
            if packaged not in self.files:
                self._add(target, packaged)
        elif not is_known:
            self.faults.append(f"{name}: links to {path}, which is not packaged; move it into docs, or unlink it")
        relative = posixpath.relpath(packaged, posixpath.dirname(name))
        return f"{link['image']}[{link['text']}]({relative}{mark}{anchor})"

    def _path(self, source: str) -> Path:
        inside = source.removeprefix(f"{self._home}/")
        return self._project / source if inside == source else self._bundle / inside

    def _name(self, source: str) -> str | None:
        """Where a file of the project's tree lies in the package."""
        if source.startswith(f"{self._home}/"):
            return source.removeprefix(f"{self._home}/")
        if source.startswith("docs/") and self._path(source).is_file():
            return f"{PROJECT_PAGES}/{source.removeprefix('docs/')}"
        return source if source == "LICENSE" or source.startswith("aps_components/") else None


def with_notice(page: str, notice: str) -> str:
    """The page with a notice below its title, in the place of one of an earlier package; an empty one is none."""
    title, newline, rest = NOTICE.sub("", page).partition("\n")
    marked = f"{BEGIN}\n\n{notice}\n\n{END}\n" if notice else ""
    if not title.startswith("# "):
        return f"{marked}\n{title}{newline}{rest}" if marked else f"{title}{newline}{rest}"
    return f"{title}{newline}\n{marked}{rest}" if marked else f"{title}{newline}{rest}"


def headings(page: str) -> dict[str, str]:
    """The sections of the second level: heading to what stands below it; code is left alone."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line, is_code in _lines(page):
        if line.startswith("## ") and not is_code:
            lines = sections.setdefault(line.removeprefix("## ").strip(), [])
        else:
            lines.append(line)
    return {title: "\n".join(body).strip() for title, body in sections.items()}


def _lines(page: str) -> Iterator[tuple[str, bool]]:
    is_code = False
    for line in page.splitlines():
        is_code ^= line.lstrip().startswith("```")
        yield line, is_code


def _holds(names: Collection[str], path: str) -> bool:
    return path in names or any(name.startswith(f"{path}/") for name in names)
