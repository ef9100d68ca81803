"""A file with an object of JSON in each line, to which a run appends as it goes: after a kill the next one goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aps_components.files import append_line, replace_text
from aps_components.plain_json import read_lines


class LineFile:
    """What one run has written so far.

    Args:
        path: of the file, in a folder that is there; it need not be there itself.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def whole(self, *, keys: Iterable[str] = (), finite: bool = True) -> list[dict[str, Any]]:
        """Its lines without one that a kill cut short; see :func:`~aps_components.plain_json.read_lines`."""
        return read_lines(self.path, keys=keys, skip_broken=True, finite=finite)

    def keep(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Hold these lines and no others, so that the next one begins on a line of its own."""
        replace_text(self.path, "".join(f"{_text(line)}\n" for line in lines))

    def append(self, line: Mapping[str, Any]) -> None:
        """Write another line."""
        append_line(self.path, _text(line))


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(dict(line))
