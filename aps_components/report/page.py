"""From blocks to one HTML file that needs no network: everything that comes from files is escaped."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from aps_components import __version__
from aps_components.files import real, replace_text
from aps_components.pictures import figure_bytes
from aps_components.report.blocks import Page, Picture
from aps_components.report.reading import percent
from aps_components.terminal import shown

REPORT_FILE = "report.html"
MAKER = "AutoPromptSeg"
RESEARCH_ONLY = "For research only. Not a medical device; not for diagnosis or treatment."
HEAD = 400  # letters, in which a page says what made it
JPEG_QUALITY = 85


def write_page(path: str | os.PathLike[str], page: Page) -> Path:
    """Write a report, whole or not at all.

    Args:
        path: of the HTML file.
        page: what is in it.

    Raises:
        FileExistsError: a file of that name is there, and is no report of this project.
    """
    path = Path(path)
    if path.is_file() and not is_report(path):
        raise FileExistsError(f"{path} is no report of {MAKER} and would be replaced; move it away")
    # Spelled out: control codes, and letters that turn the direction of writing.
    environment = Environment(
        loader=PackageLoader("aps_components.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: shown(value) if isinstance(value, str) else value,
    )
    foot = f"{RESEARCH_ONLY} Written by aps_components {__version__}."
    text = environment.get_template("page.html").render(page=page, maker=MAKER, foot=foot)
    replace_text(path, text)
    return path


def is_report(path: Path) -> bool:
    """Whether an HTML file was written by :func:`write_page`."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        return f'name="generator" content="{MAKER}"' in stream.read(HEAD)


def drawn(figure: Figure, description: str, caption: str = "") -> Picture:
    """A figure as a picture inside the page, in lines that stay sharp.

    Args:
        figure: drawn on already.
        description: of what it shows.
        caption: below it.
    """
    return Picture(_address("image/svg+xml", figure_bytes(figure, format="svg")), description, caption)


def photograph(file: Path, description: str, *, caption: str = "", width: int | None = None) -> Picture | None:
    """A picture from a file, as JPEG; None where there is none that can be read.

    Args:
        file: such as a PNG.
        description: of what it shows.
        caption: below it.
        width: in dots, if it is wider.
    """
    content = io.BytesIO()
    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    if width is not None and image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))))
    image.save(content, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return Picture(_address("image/jpeg", content.getvalue()), description, caption)


def worst_error(file: Path, case: str, dice: float | None) -> list[Picture]:
    """A scan's picture of its worst error, with its Dice, a share from 0 to 1; none where it cannot be read."""
    said = f"{case}: Dice {percent(dice)} %"
    picture = photograph(file, f"{said}; three planes through its worst error", caption=said)
    return [] if picture is None else [picture]


def picture_file(folder: Path, name: Any) -> Path | None:
    """A picture that a file names, if it lies in that file's folder."""
    if not isinstance(name, str) or not name:
        return None
    file = real(folder / name)
    return file if file.is_relative_to(real(folder)) and file.is_file() else None


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
