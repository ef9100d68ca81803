"""Arguments as fire hands them over."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any

from fire.decorators import SetParseFn, SetParseFns
from fire.parser import DefaultParseValue

from aps_components.files import expanded
from aps_components.options import NoSuchOptionError, has_comment, refuse_unknown
from aps_components.terminal import brief

POSITIONAL_OR_KEYWORD = inspect.Parameter.POSITIONAL_OR_KEYWORD
VAR_POSITIONAL, VAR_KEYWORD = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
SOME = ("str | tuple[str, ...]", "str | tuple[str, ...] | None", "str | Sequence[str]")  # texts, with commas or a list
TEXTS = (str, str | None, "str", "str | None", *SOME)  # as annotations


def parsed(text: str) -> Any:
    """A value as Python Fire reads it, but for texts such as ``results#2``, which it cuts off, and ``2024_01_05``."""
    if has_comment(text):
        return text
    value = DefaultParseValue(text)
    return text if isinstance(value, int | float) and "_" in text else value


def as_typed(text: str) -> Any:
    """A value that is to be a text: what reads as a number or as numbers stays as it is, as ``1.10`` and ``1,2`` do.

    A list and a dictionary are what they read as.
    """
    value = parsed(text)
    is_switch = isinstance(value, bool)
    is_text = isinstance(value, int | float | complex | tuple) and not is_switch
    return text if is_text or text.startswith("(") else value


def read_as_typed(command: Callable[..., Any]) -> None:
    """Have fire hand over texts of a command as they were typed, and other values as :func:`parsed` reads them."""
    texts = [name for name, one in inspect.signature(command).parameters.items() if one.annotation in TEXTS]
    SetParseFn(parsed)(command)
    SetParseFns(**dict.fromkeys(texts, as_typed))(command)


def several(values: Any) -> list[Any]:
    """The values of an option that takes some: fire makes a tuple of "1,2", of "1" a number, and of "a.b,c" a text.

    A comma may belong to the name of a file that there is; several such files are given as a Python list.
    """
    if isinstance(values, list | tuple):
        return list(values)
    if isinstance(values, str) and not os.path.exists(expanded(values)):
        return [part.strip() for part in values.split(",") if part.strip()]
    return [values]


def strict(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, which is run with arguments that it has, or not at all.

    Fire runs a function with the arguments that it knows, and complains of the others when all is done. An empty text
    is a variable of a shell that is not set. A text without a value, ``--out`` alone, is True to fire.
    """
    signature = inspect.signature(command)
    known = {name: one for name, one in signature.parameters.items() if one.kind not in (VAR_POSITIONAL, VAR_KEYWORD)}
    places = [name for name, one in known.items() if one.kind is POSITIONAL_OR_KEYWORD]
    takes_any = any(one.kind is VAR_KEYWORD for one in signature.parameters.values())

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not takes_any:
            refuse_unknown(kwargs, known)
        if len(args) > len(places):
            raise ValueError(f"{brief(args[len(places)])} is one value too many; there are: {', '.join(places)}")
        given = {**dict(zip(places, args, strict=False)), **kwargs}
        for name, value in given.items():
            if isinstance(value, str) and not value.strip():
                raise ValueError(f"{name} is empty: give a value, or leave it out")
            if isinstance(value, bool) and name in known and known[name].annotation in TEXTS:
                raise ValueError(f"--{name} is given without a value: give one, or leave it out")
        try:
            return command(**given)
        except NoSuchOptionError as error:  # of a configuration: it may have been meant for the command
            raise NoSuchOptionError(error.option, {*known, *error.known}) from None

    run.__signature__ = signature.replace(parameters=list(_with_others(signature)))  # type: ignore[attr-defined]
    return run


def _with_others(signature: inspect.Signature) -> Iterator[inspect.Parameter]:
    """Such that fire hands over everything."""
    parameters = signature.parameters.values()
    yield from (one for one in parameters if one.kind is POSITIONAL_OR_KEYWORD)
    yield inspect.Parameter("further_values", VAR_POSITIONAL)
    yield from (one for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY)
    yield next(
        (one for one in parameters if one.kind is VAR_KEYWORD), inspect.Parameter("further_options", VAR_KEYWORD)
    )
