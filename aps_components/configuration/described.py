"""Transforms as a configuration lists them, a line each: what is kept with a model, and compared with it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

from monai.bundle import ConfigParser
from monai.utils import ensure_tuple

from aps_components.configuration.options import OPTIONS

TARGET, DISABLED = "_target_", "_disabled_"
LABEL = "label"
# What is kept under its own name anyway, and so is no part of a line.
KEPT = [f"@{name}" for name in (*OPTIONS, "num_classes")]
# Of these a scan knows nothing: keys are named otherwise in other workflows, and the rest is about labels.
NOT_OF_IMAGES = ("keys", "allow_missing_keys", "label_values")


def transform_lines(parser: ConfigParser, path: str) -> list[str]:
    """Those of a list that are not disabled, such as ``RandGaussianNoised(keys="image", prob=0.15)``.

    Arguments that are an option as it is, such as ``"@spacing"``, are left out. Of what an expression makes there is
    the class alone.

    Args:
        parser: of any workflow.
        path: id of the list.
    """
    return [_line(parser, item, kept) for item, kept in _listed(parser, path)]


def image_lines(parser: ConfigParser, path: str) -> list[str]:
    """Likewise, of those that change images, and without what is about keys or labels.

    Args:
        parser: of any workflow.
        path: id of the list.
    """
    return [
        _line(parser, item, kept, without=NOT_OF_IMAGES)
        for item, kept in _listed(parser, path)
        if kept or _keys(parser, item) != (LABEL,)
    ]


def _listed(parser: ConfigParser, path: str) -> Iterator[tuple[str, str]]:
    """Id of each transform, or else, where the configuration has no more of it, the name of its class."""
    listed = parser.get(path)
    if not isinstance(listed, list):
        yield from (("", type(entry).__name__) for entry in ensure_tuple(parser.get_parsed_content(path)))
        return
    for index, entry in enumerate(listed):
        item = f"{path}#{index}"
        if not isinstance(entry, dict) or TARGET not in entry:
            yield from (("", type(made).__name__) for made in ensure_tuple(parser.get_parsed_content(item)))
        elif not (DISABLED in entry and _is_true(parser.get_parsed_content(f"{item}#{DISABLED}"))):
            yield item, ""


def _is_true(disabled: Any) -> bool:
    """As MONAI takes it."""
    return disabled.strip().lower() == "true" if isinstance(disabled, str) else bool(disabled)


def _keys(parser: ConfigParser, item: str) -> tuple[Any, ...]:
    return ensure_tuple(parser.get_parsed_content(f"{item}#keys")) if f"{item}#keys" in parser else ()


def _line(parser: ConfigParser, item: str, class_name: str = "", *, without: Collection[str] = ()) -> str:
    if class_name:
        return f"{class_name}(...)"
    component = parser.get(item)
    given = {
        name: _value(parser, f"{item}#{name}")
        for name, value in component.items()
        if not name.startswith("_") and name not in without and value not in KEPT
    }
    name = str(component[TARGET]).rpartition(".")[2]
    return f"{name}({', '.join(f'{key}={value}' for key, value in given.items())})"


def _value(parser: ConfigParser, item: str) -> str:
    raw = parser.get(item)
    if isinstance(raw, dict) and TARGET in raw:
        return _line(parser, item)
    return json.dumps(parser.get_parsed_content(item), default=lambda made: str(made).partition(" at 0x")[0])
