"""Values of files that others wrote, such as they are: what is missing or of another type is unknown, never guessed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median, pstdev
from typing import Any

UNKNOWN, NOT_SET = "unknown", "not set"
DASH = "\N{EN DASH}"
MOST_FACTS, MOST_LEVELS, MOST_LETTERS = 80, 3, 300
SECONDS_PER_MINUTE, MINUTES_PER_HOUR = 60, 60


def mapping(value: Any) -> Mapping[str, Any]:
    """An object, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def objects(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list, or none."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """A finite number, or None."""
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def known(values: Iterable[float | None]) -> list[float]:
    """Without those that are None."""
    return [value for value in values if value is not None]


def mean(values: Iterable[float | None]) -> float | None:
    """Of what is known; None where nothing is."""
    found = known(values)
    return fmean(found) if found else None


def spread(values: Iterable[float | None], *, digits: int = 1, factor: float = 100) -> str:
    """Mean ± standard deviation of what is known, in percent by default; of one value there is no deviation."""
    found = [factor * value for value in known(values)]
    if not found:
        return DASH
    return f"{fmean(found):.{digits}f}" + (f" ± {pstdev(found):.{digits}f}" if len(found) > 1 else "")


def middle(values: Iterable[float | None], *, digits: int = 1, factor: float = 100) -> str:
    """The median of what is known."""
    found = known(values)
    return f"{factor * median(found):.{digits}f}" if found else DASH


def percent(value: float | None, *, digits: int = 1) -> str:
    """Of a share from 0 to 1."""
    return DASH if value is None else f"{100 * value:.{digits}f}"


def duration(seconds: float | None) -> str:
    """Seconds in words: 42 s, 12 min, 3 h 05 min."""
    if seconds is None or seconds < 0:
        return UNKNOWN
    minutes = round(seconds / SECONDS_PER_MINUTE)
    if seconds < SECONDS_PER_MINUTE:
        return f"{seconds:.0f} s"
    if minutes < MINUTES_PER_HOUR:
        return f"{minutes} min"
    return f"{minutes // MINUTES_PER_HOUR} h {minutes % MINUTES_PER_HOUR:02d} min"


def text(value: Any) -> str:
    """A value of JSON's types in a line."""
    if value is None:
        return NOT_SET
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        if any(isinstance(entry, Mapping) for entry in value):
            return f"{len(value)} entries"
        inner = (f"[{text(entry)}]" if isinstance(entry, list) else text(entry) for entry in value)
        return ", ".join(inner) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {text(entry)}" for key, entry in value.items()) or "none"
    return str(value)


def facts(value: Any, *, prefix: str = "", level: int = 1) -> list[tuple[str, str]]:
    """The entries of an object as names and values, those of objects in it after the name that they stand under."""
    found: list[tuple[str, str]] = []
    for key, entry in mapping(value).items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(entry, Mapping) and entry and level < MOST_LEVELS:
            found += facts(entry, prefix=f"{name}, ", level=level + 1)
        else:
            line = text(entry)
            found.append((name, line if len(line) <= MOST_LETTERS else f"{line[:MOST_LETTERS]} ..."))
    return found[:MOST_FACTS]


def worst_first(figures: Mapping[str, Sequence[float | None]]) -> list[str]:
    """Names by the mean of their figures, the lowest first; those without any come last."""
    means = {name: mean(values) for name, values in figures.items()}

    def rank(name: str) -> tuple[float, str]:
        value = means[name]
        return (math.inf if value is None else value), name

    return sorted(means, key=rank)
