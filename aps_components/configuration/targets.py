"""What a component of a configuration takes: the arguments of its ``_target_``, their types and defaults."""

from __future__ import annotations

import difflib
import inspect
import types
from collections.abc import Callable, Mapping
from functools import cache
from pydoc import locate
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from monai.bundle import ComponentLocator, ConfigComponent

from aps_components.options import Kind, Pieces, choice, number, optional, pieces, text, truth, whole

OURS = "aps_components."


@cache
def target_of(name: str) -> Callable[..., Any] | None:
    """What a ``_target_`` names, a full name or one that MONAI knows; None where there is no such thing."""
    found = ConfigComponent({"_target_": name}, locator=_locator()).resolve_module_name()
    found = locate(found) if isinstance(found, str) else found
    return found if callable(found) else None


def near_target(name: str) -> str | None:
    """The name that may have been meant by one that there is not; None where nothing is like it."""
    place, _, last = name.rpartition(".")
    module = locate(place) if place else None
    known = dir(module) if module is not None else _locator()._components_table or ()
    near = difflib.get_close_matches(last, [entry for entry in known if not entry.startswith("_")], n=1)
    return f"{place}.{near[0]}" if near and module is not None else next(iter(near), None)


@cache
def _locator() -> ComponentLocator:
    """One for all, as each looks through all of MONAI."""
    return ComponentLocator()


@cache
def arguments_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """By name; None where it takes any.

    What it hands on by ``**kwargs`` is what the class before it takes, or that which it makes, or what its attribute
    ``hands_on_to`` says.
    """
    taken: dict[str, inspect.Parameter] = {}
    for step in _handing_on(function):
        parameters = inspect.signature(step).parameters.values()
        taken = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} | taken
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            taken.pop("self", None)
            return taken
    return None


def _handing_on(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    if inspect.isclass(function):
        return [vars(base)["__init__"] for base in function.__mro__ if "__init__" in vars(base) and base is not object]
    made = getattr(function, "hands_on_to", None)
    if made is not None:
        return [function, *_handing_on(made)]
    made = _hints(function).get("return")
    return [function, *(_handing_on(made) if inspect.isclass(made) else [])]


@cache
def kind_of_argument(function: Callable[..., Any], name: str) -> Kind | None:
    """By its annotation, in this package's own functions; None where that is no plain type."""
    for step in _handing_on(function):
        if name in inspect.signature(step).parameters and step.__module__.startswith(OURS):
            return _kind(_hints(step).get(name))
    return None


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except (NameError, TypeError):
        return {}


def _kind(hint: Any) -> Kind | None:
    plain: dict[Any, Kind] = {bool: truth, int: whole(), float: number(), str: text, Pieces: pieces}
    if hint in plain:
        return plain[hint]
    if get_origin(hint) is Literal and all(isinstance(entry, str) for entry in get_args(hint)):
        return choice(*get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [_kind(entry) for entry in get_args(hint) if entry is not types.NoneType]
        if len(kinds) == 1 and kinds[0] is not None and types.NoneType in get_args(hint):
            return optional(kinds[0])
    return None
