"""For ``make docs``: pages that lie outside of ``docs`` join the site, and links follow them.

Every page is written for GitHub, where ``../../bundles/la/docs/README.md`` is a file. In the site it is
``bundles/la.md``. A link to a file that the site does not hold, such as a licence, becomes plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
ROLE = re.compile(r":(?:class|func|meth|data|mod):(?=<code)")
OUTSIDE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "README.md": "README.md"}


def sources() -> dict[str, str]:
    """Files of the repository that the site takes: path in the repository to path in the site."""
    found = {path: page for path, page in OUTSIDE.items() if path != "README.md"}
    for page in sorted(ROOT.glob("bundles/*/docs/README.md")):
        found[page.relative_to(ROOT).as_posix()] = f"bundles/{page.parents[1].name}.md"
    for picture in sorted(ROOT.glob("bundles/*/docs/*.png")):
        found[picture.relative_to(ROOT).as_posix()] = f"bundles/{picture.parents[1].name}/{picture.name}"
    return found


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add them."""
    for path, page in sources().items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let each relative link lead to the same file in the site."""
    in_repository = {site: path for path, site in sources().items()}
    here = page.file.src_uri
    source = in_repository.get(here, f"docs/{here}")
    return LINK.sub(lambda link: _followed(link, source=source, here=here, files=files), markdown)


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The docstrings name classes as Sphinx does, whose mark says nothing here."""
    return ROLE.sub("", html)


def _followed(link: re.Match[str], *, source: str, here: str, files: Files) -> str:
    mark, text, target = link.groups()
    if re.match(r"[a-z]+:", target) or target.startswith("#"):
        return link[0]
    path, hash_, anchor = target.partition("#")
    named = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    site = {**sources(), **OUTSIDE}.get(named, named.removeprefix("docs/"))
    if files.get_file_from_path(site) is None:
        return link[0] if named.startswith("docs/") and not (ROOT / named).exists() else text
    return f"{mark}[{text}]({posixpath.relpath(site, posixpath.dirname(here) or '.')}{hash_}{anchor})"
