"""The one place that reads JSON: a file is data, never code, and what is wrong with it is said with its name.

Python's own reader takes a file of any size, nested until the interpreter's stack ends, with NaN for a number and the
last of two equal keys for the only one. MONAI's configuration evaluates a text that begins with "$" (Python), "@" (a
reference) or "%" (a macro, also from another file), and builds an object of any "_target_". A value that comes from a
file of settings or of a dataset and goes on into a configuration passes :func:`refuse_config_syntax` first.
"""

from __future__ import annotations

import json
import math
import os
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from aps_components.terminal import shown

MOST_BYTES = 64 << 20
MOST_LEVELS = 64
LARGEST = 1e300  # of whole numbers, which have no end in Python
MEND = "mend that place, or copy the file again"
# monai.bundle.utils: how a text begins that MONAI's configuration does not take as it stands; "+" merges, "~" deletes.
SPECIAL_VALUES = ("$", "@", "%")
SPECIAL_KEYS = (*SPECIAL_VALUES, "+", "~", "_")
SEPARATORS = ("#", "::")
RELATIVE = re.compile(r"[@%](#|::)")
File = str | os.PathLike[str]


def read_json(path: File, *, bom: bool = False, mend: str = MEND, error: type[ValueError] = ValueError) -> Any:
    """The content of a JSON file in UTF-8.

    Args:
        path: of the file.
        bom: take a byte order mark at its beginning, too, with which other tools on Windows write UTF-8.
        mend: what to do where something is wrong with it.
        error: what to raise then.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError, as ``error``: it is no regular file, too large, nested too deep, no JSON, or names a key twice.
    """
    content = _content(Path(path), mend, error)
    return parse_json(content.removeprefix(BOM_UTF8) if bom else content, name=path, mend=mend, error=error)


def read_object(
    path: File,
    *,
    keys: Iterable[str] = (),
    bom: bool = False,
    mend: str = MEND,
    error: type[ValueError] = ValueError,
) -> dict[str, Any]:
    """A JSON file that holds an object with these keys; errors as of :func:`read_json`."""
    content = read_json(path, bom=bom, mend=mend, error=error)
    if not isinstance(content, dict):
        raise error(f"{shown(path)}: holds {_kind(content)}, where a JSON object is wanted; {mend}")
    for key in keys:
        if key not in content:
            raise error(f"{shown(path)}: key {key!r} is missing; add it")
    return content


def read_lines(
    path: File,
    *,
    keys: Iterable[str] = (),
    skip_broken: bool = False,
    finite: bool = True,
    mend: str = MEND,
    error: type[ValueError] = ValueError,
) -> list[dict[str, Any]]:
    """The objects of a file with one in each line; none where there is no file. Errors as of :func:`read_json`.

    Args:
        path: of the file.
        keys: that each object must have.
        skip_broken: leave out lines that are no such object, as a kill in the middle of writing leaves one.
        finite: refuse NaN and infinity, which Python writes and JSON has not.
        mend: as of :func:`read_json`.
        error: as of :func:`read_json`.
    """
    path, keys = Path(path), tuple(keys)
    if not path.exists():
        return []
    lines = _content(path, mend, error).decode("utf-8", errors="replace").splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            content = parse_json(line, name=f"{path}, line {number}", finite=finite, mend=mend, error=error)
            if not isinstance(content, dict) or any(key not in content for key in keys):
                raise error(f"{shown(path)}, line {number}: no object with {', '.join(keys) or 'keys'}; {mend}")
        except ValueError:
            if not skip_broken:
                raise
        else:
            found.append(content)
    return found


def parse_json(
    content: str | bytes,
    *,
    name: File,
    finite: bool = True,
    mend: str = MEND,
    error: type[ValueError] = ValueError,
) -> Any:
    """JSON that was read already; ``name`` is what errors call it. Errors as of :func:`read_json`."""
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        if text.startswith("\ufeff"):
            raise ValueError("begins with a byte order mark: save it as UTF-8 without BOM")
        value = json.loads(
            text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant if finite else float
        )
        _refuse_strange(value, finite=finite)
    except UnicodeDecodeError as reason:
        raise error(f"{shown(name)}: not UTF-8 ({reason.reason} at byte {reason.start}); save it as UTF-8") from None
    except (ValueError, RecursionError) as reason:  # without Python's own, which knows no file
        said = "nested too deep" if isinstance(reason, RecursionError) else shown(reason)
        raise error(f"{shown(name)}: not valid JSON ({said}); {mend}") from None
    return value


def is_number(value: Any) -> bool:
    """Whether a value of JSON's types is a finite number; true and false are none."""
    return type(value) in (int, float) and math.isfinite(value)


def are_numbers(values: Any) -> bool:
    """Whether a value is an object all of whose values are numbers or null."""
    return isinstance(values, dict) and all(value is None or is_number(value) for value in values.values())


def refuse_config_syntax(value: Any, *, where: str, error: type[ValueError] = ValueError) -> None:
    """Refuse what MONAI's configuration would evaluate, refer to, build or merge, anywhere in a value of JSON's types.

    Args:
        value: to be handed on.
        where: it comes from, a file's name first.
        error: what to raise.

    Raises:
        ValueError, as ``error``: names the place and the text.
    """
    for place, text, is_key in _texts(value):
        start = text.lstrip()
        special = SPECIAL_KEYS if is_key else SPECIAL_VALUES
        if start.startswith(special) or RELATIVE.search(text) or (is_key and any(sep in text for sep in SEPARATORS)):
            raise error(
                f"{shown(where)}: {place}{'the key ' if is_key else ''}'{shown(text[:80])}' means something else to "
                "MONAI's configuration, which would run it as code; nothing of it was run. Write a plain value, or "
                "take the file from where you trust it"
            )


def _content(path: Path, mend: str, error: type[ValueError]) -> bytes:
    if path.exists() and not path.is_file():
        raise error(f"{shown(path)}: no regular file; {mend}")
    with open(path, "rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise error(f"{shown(path)}: larger than {MOST_BYTES >> 20} MB, which no such file is; {mend}")
    return content


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _is_huge(value: Any) -> bool:
    """A whole number that no float can be near, which every formula with it would end at."""
    return isinstance(value, int) and abs(value) > LARGEST


def _refuse_strange(value: Any, *, finite: bool) -> None:
    """Levels without end, numbers like 1e999, and halves of a character, which no file or terminal takes."""
    waiting = [(value, 1)]
    while waiting:
        part, level = waiting.pop()
        if level > MOST_LEVELS:
            raise ValueError(f"nested deeper than {MOST_LEVELS} levels")
        if (finite and isinstance(part, float) and not math.isfinite(part)) or _is_huge(part):
            raise ValueError("a number beyond what a computer holds")
        if isinstance(part, str) and any("\ud800" <= letter <= "\udfff" for letter in part):
            raise ValueError("a text with half a character (a lone surrogate)")
        inner: Iterable[Any] = [*part.keys(), *part.values()] if isinstance(part, dict) else ()
        waiting += [(entry, level + 1) for entry in (part if isinstance(part, list) else inner)]


def _texts(value: Any, place: str = "") -> Iterator[tuple[str, str, bool]]:
    """Every text in a value: where it stands, the text, and whether it is a key."""
    if isinstance(value, str):
        yield place, value, False
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield place, str(key), True
            yield from _texts(entry, f"{place}{shown(key)}: ")
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from _texts(entry, f"{place}[{index}] ")
