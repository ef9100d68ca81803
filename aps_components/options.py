"""Values as they come from a command line: of which type each must be, and what two sets of them differ in."""

from __future__ import annotations

import difflib
import io
import math
import tokenize
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal

from aps_components.terminal import brief

Axes = Sequence[int | Sequence[int]]
"""Of a volume: 0 left-right, 1 back-front, 2 down-up; those in a list of their own go together."""

Pieces = bool | Literal["joined", "foreground"]
"""Which connected pieces of an answer are kept: see ``label_map.kept_pieces``."""
VARYING_CONTRAST = ("affine", "full", "strong", "strong_in_plane")  # of the values of `augmentation`
OF_THE_FOREGROUND = ("joined", "foreground")  # the largest piece of all classes together is sought first
OF_EACH_CLASS = (True, "joined")  # the largest piece of each class alone stays

NAMED = 3  # of many differences of a list

Kind = Callable[[str, Any], Any]
"""Of an option: its name and the value that was typed, to the value that is meant; a ValueError names both."""


def truth(name: str, value: Any) -> bool:
    """True or False, also as the words ``true`` and ``false``: those reach a config as text, which Python calls true.

    Raises:
        ValueError: anything else.
    """
    words = {"true": True, "false": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise ValueError(f"{name} {value!r} must be true or false")
    return words[str(value).lower()]


def pieces(name: str, value: Any) -> Pieces:
    """Which connected pieces of an answer are kept: one of the words that ``label_map.kept_pieces`` takes.

    Raises:
        ValueError: anything else.
    """
    if value == "joined" or value == "foreground":
        return value
    try:
        return truth(name, value)
    except ValueError:
        raise ValueError(f"{name} {value!r} must be true, false, joined or foreground") from None


def has_comment(text: str) -> bool:
    """Whether Python would cut a text off at a "#": Python Fire reads ``results#2`` as ``results``."""
    try:
        return any(token.type == tokenize.COMMENT for token in tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError):
        return "#" in text


def literal(text: str) -> str:
    """A text for MONAI's configurations: one with a "#" in it as an expression, since MONAI puts "::" in its place."""
    if "#" not in text:
        return text
    parts = [" + chr(64) + ".join(repr(piece) for piece in part.split("@")) for part in text.split("#")]
    return "$" + " + chr(35) + ".join(parts)


def switch(value: bool | str) -> bool:
    """:func:`truth` of a value whose name is not known."""
    return truth("the value", value)


def whole(*, least: int | None = None, most: int | None = None) -> Kind:
    """A whole number; one as text counts, such as YAML's ``"3"``; 3.0 counts, too, 3.5 and True do not."""
    limits = _limits(least=least, most=most)

    def kind(name: str, value: Any) -> int:
        number = _number(value)
        if number is None or number != int(number) or not _within(number, least=least, most=most):
            raise ValueError(f"{name} {value!r} must be a whole number{limits}")
        return int(number)

    return kind


def number(
    *, least: float | None = None, above: float | None = None, most: float | None = None, below: float | None = None
) -> Kind:
    """A finite number; one as text counts, such as ``"1e-3"``, which YAML does not take for a number."""
    limits = _limits(least=least, above=above, most=most, below=below)

    def kind(name: str, value: Any) -> float:
        number = _number(value)
        if number is None or not _within(number, least=least, above=above, most=most, below=below):
            raise ValueError(f"{name} {value!r} must be a number{limits}")
        return number

    return kind


def choice(*names: str) -> Kind:
    """One of some names."""
    listed = f"{', '.join(map(repr, names[:-1]))} or {names[-1]!r}"

    def kind(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            near = difflib.get_close_matches(str(value), names, n=1)
            raise ValueError(f"{name} {value!r} must be {listed}" + (f": did you mean {near[0]!r}?" if near else ""))
        return value

    return kind


def text(name: str, value: Any) -> str:
    """A text, or a path; of a number that a command line made of one, its digits."""
    if isinstance(value, PurePath) or (isinstance(value, int | float) and not isinstance(value, bool)):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"{name} {value!r} must be a text")
    return value


def optional(kind: Kind) -> Kind:
    """The same, or None."""

    def wrapped(name: str, value: Any) -> Any:
        try:
            return None if value is None else kind(name, value)
        except ValueError as error:
            raise ValueError(f"{error}, or null") from None

    return wrapped


def three(kind: Kind, what: str, example: str) -> Kind:
    """Three values along x, y and z.

    Args:
        kind: of each.
        what: they are, in words.
        example: as typed.
    """

    def wrapped(name: str, value: Any) -> list[Any]:
        if isinstance(value, list | tuple) and len(value) == 3:
            try:
                return [kind(name, entry) for entry in value]
            except ValueError:
                pass
        shown = list(value) if isinstance(value, tuple) else value
        raise ValueError(f'{name} {shown!r} must be three {what}, such as --{name} "{example}"')

    return wrapped


def axes(name: str, value: Any) -> list[Any]:
    """Axes as :func:`axis_groups` reads them, in lists."""
    axis_groups(name, value)
    return [list(entry) if isinstance(entry, list | tuple) else entry for entry in value]


def axis_groups(name: str, axes: Axes) -> list[tuple[int, ...]]:
    """Axes that are flipped, in groups that are flipped together: ``[[0, 1], 2]`` is ``[(0, 1), (2,)]``.

    Args:
        name: of the option.
        axes: its value.

    Raises:
        ValueError: no list, other axes than 0, 1 and 2, one of them twice, or an empty group.
    """
    listed = isinstance(axes, list | tuple)
    groups = [tuple(entry) if isinstance(entry, list | tuple) else (entry,) for entry in axes] if listed else []
    flat = [axis for group in groups for axis in group]
    known = all(type(axis) is int and 0 <= axis <= 2 for axis in flat)
    if not listed or not known or len(set(flat)) < len(flat) or not all(groups):
        shown = list(axes) if listed else axes
        raise ValueError(
            f"{name} {shown!r} must be some of 0 (left-right), 1 (back-front) and 2 (down-up), each once, in a list "
            f'such as --{name} "[0,1]"; those in a list of their own are flipped together'
        )
    return groups


def refuse_cut_values(arguments: Iterable[str]) -> None:
    """Refuse what Python Fire reads but a part of, before that part is taken for a folder.

    Args:
        arguments: of a command line of MONAI, as they were typed.

    Raises:
        ValueError: a value with a "#" that Python takes for the beginning of a comment, and how to write it.
    """
    name = ""
    for argument in arguments:
        is_option = argument.startswith("--")
        name, joined, value = argument.partition("=") if is_option else (name, "", argument)
        if (joined or not is_option) and has_comment(value):
            raise ValueError(
                f'{brief(name)} {brief(value)}: MONAI\'s command line reads no further than "#"; of a scan or a '
                f"dataset write '\"{brief(value)}\"', for others choose a name without it"
            )


def differences(found: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What stands in the way of going on with work that was begun with ``found``: empty where nothing does.

    Inside an object the entries that differ are named alone, after a "#"; so are those of a list of texts.
    """
    parts: list[str] = []
    for key in sorted({*found, *given}):
        there, now = found.get(key), given.get(key)
        if isinstance(there, Mapping) and isinstance(now, Mapping):
            inner = differences(there, now)
            parts += [f"{brief(key)}#{part}" for part in inner.split("; ") if part]
        elif _are_texts(there) and _are_texts(now):
            parts += [f"{brief(key)} {part}" for part in list_differences(there or [], now or [])]
        elif there != now:
            parts.append(f"{brief(key)} {brief(repr(there))} there, {brief(repr(now))} now")
    return "; ".join(parts)


def list_differences(found: Sequence[str], given: Sequence[str]) -> list[str]:
    """In what two lists of texts differ, a text each; the first few of many.

    Args:
        found: what is there.
        given: what there is now.
    """
    without, more = Counter(found) - Counter(given), Counter(given) - Counter(found)
    parts = [f"without {brief(entry)}" for entry in without.elements()]
    parts += [f"with {brief(entry)}" for entry in more.elements()]
    if not parts and list(found) != list(given):
        parts = ["in another order"]
    parts = [f"now {part}" for part in parts]
    return parts if len(parts) <= NAMED else [*parts[:NAMED], f"and {len(parts) - NAMED} more"]


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, str) for entry in value)


class NoSuchOptionError(ValueError):
    """An option that there is not; ``known`` are those that there are."""

    def __init__(self, option: str, known: Collection[str]) -> None:
        super().__init__(f"no option --{option}; {meant(option.partition('#')[0], known)}")
        self.option, self.known = option, known


def refuse_unknown(options: Iterable[str], known: Collection[str]) -> None:
    """Refuse a mistyped option, which a configuration would take for a new key.

    Args:
        options: names; what follows a "#" lies inside the key before it.
        known: keys that there are.

    Raises:
        NoSuchOptionError: an option that there is not; which one was meant, or which there are.
    """
    for key in options:
        if key.partition("#")[0] not in known:
            raise NoSuchOptionError(key, known)


def refuse_decided(options: Mapping[str, Any], own: Collection[str], *, mend: Mapping[str, str] | None = None) -> None:
    """Refuse an option that a command sets itself, which would have no effect, or undo what the command was asked for.

    Args:
        options: as given.
        own: names of those that are decided otherwise; what follows a "#" lies inside the key before it.
        mend: what to give in the place of some.

    Raises:
        ValueError: which one, and what to do.
    """
    if found := decided(options, own):
        key, name = found
        raise ValueError(f"--{key} {options[key]!r} has no effect here: {(mend or {}).get(name, 'leave it out')}")


def decided(options: Iterable[str], own: Collection[str]) -> tuple[str, str] | None:
    """The first option, by name, that a command sets itself, and the name in ``own`` by which it does; None of none.

    Args:
        options: names; what follows a "#" lies inside the key before it.
        own: names.
    """
    found = ((key, name) for key in sorted(options) for name in (key, key.partition("#")[0]) if name in own)
    return next(found, None)


def meant(name: str, known: Collection[str], *, inside: str = "") -> str:
    """Which option was meant by a name that there is not, or which there are.

    Args:
        name: that there is not.
        known: names that there are.
        inside: the key that they lie in.
    """
    before = f"{inside}#" if inside else ""
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"did you mean --{before}{near[0]}?" if near else f"there are: {', '.join(sorted(known))}"


def _number(value: Any) -> float | None:
    """Finite, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = value if isinstance(value, int) else float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _within(
    number: float,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> bool:
    return (
        (least is None or number >= least)
        and (above is None or number > above)
        and (most is None or number <= most)
        and (below is None or number < below)
    )


def _limits(
    *, least: float | None = None, above: float | None = None, most: float | None = None, below: float | None = None
) -> str:
    low = f"[{_short(least)}" if least is not None else f"({_short(above)}" if above is not None else ""
    high = f"{_short(most)}]" if most is not None else f"{_short(below)})" if below is not None else ""
    if low and high:
        return f" in {low}, {high}"
    if high:
        return f" below {_short(below)}" if most is None else f" up to {_short(most)}"
    if not low:
        return ""
    return f" above {_short(above)}" if least is None else f" from {_short(least)} on"


def _short(limit: float | None) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


SEED: Kind = whole(least=0, most=2**32 - 1)
"""The numbers that every generator here takes; NumPy's takes no more."""
