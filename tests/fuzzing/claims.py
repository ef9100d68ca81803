"""What is claimed of every input of the fuzz: it is refused in plain words by name, or read as its bytes say."""

import random
from collections.abc import Callable, Iterable
from traceback import walk_tb
from typing import Any, NamedTuple

from aps_components.errors import root_cause

LONGEST = 2000  # letters of a message
PACKAGE = "aps_components."


class Violation(AssertionError):
    """What was claimed is not so."""


class Outcome(NamedTuple):
    """Of one door: what it gave back, or what it said."""

    value: Any = None
    said: str = ""

    @property
    def refused(self) -> bool:
        return bool(self.said)


def through(door: Callable[[], Any], *, names: Iterable[Any], other: tuple[type[BaseException], ...] = ()) -> Outcome:
    """Call a door; an error must be the project's own, of a few plain lines, one of which has one of the names."""
    try:
        return Outcome(value=door())
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, other):
            return Outcome(said=str(cause))
        frames = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(cause.__traceback__)]
        said = str(cause)
        if not isinstance(cause, ValueError | OSError) or not frames or not frames[-1].startswith(PACKAGE):
            at = frames[-1] if frames else "nowhere"
            raise Violation(f"{type(cause).__name__} of {at}: {said[:200]}") from error
        if not any(str(name) in said for name in names):
            raise Violation(f"no file is named: {said[:200]}") from error
        if len(said) > LONGEST or any(ord(letter) < 32 and letter != "\n" for letter in said):
            raise Violation(f"not fit to print: {said[:200]!r}") from error
        return Outcome(said=said)


def agree(condition: bool, what: str) -> None:
    """A claim about a value."""
    if not condition:
        raise Violation(what)


def flipped(content: bytes, draw: random.Random, *, until: int | None = None, most: int = 3) -> bytes:
    """With a few bytes altered, of the first so many."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, most)):
        if changed:
            changed[draw.randrange(min(len(changed), until or len(changed)))] = draw.choice(
                [0, 1, 127, 128, 255, draw.randrange(256)]
            )
    return bytes(changed)


def cut(content: bytes, draw: random.Random) -> bytes:
    """Cut short, anywhere or near its end."""
    return content[: draw.choice([0, 1, draw.randrange(len(content) + 1), max(0, len(content) - draw.randint(1, 20))])]
