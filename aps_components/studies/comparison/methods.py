"""Every method and ablation as the values in which it differs from a bundle's ``train.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any

FILE = "methods.json"
GROUP = "/"
REFERENCE = "ours"  # the bundle as it is


@dataclass(frozen=True, kw_only=True)
class Method:
    """One line of a table.

    Args:
        name: as on the command line; an ablation is ``GROUP/VARIANT``.
        title: as in the table.
        trained_as: the method whose training serves; itself, unless a variant only reads another's results.
        predictor: which of ``a``, ``b`` and ``average`` is measured.
        overrides: of ``train.json``; see :func:`in_equal_budget`.
        teachers: methods whose models, trained with the same seed, label the unlabelled scans first (``aps
            pseudo-label``); training starts from the weights of the last. None for a first round.
        source: publication, or what differs from it.
    """

    name: str
    title: str
    trained_as: str
    predictor: str = "average"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    teachers: tuple[str, ...] = ()
    source: str = ""


def load_methods() -> dict[str, Method]:
    """All of them by name, in the order of the table."""
    entries = json.loads((resources.files(__package__) / FILE).read_text(encoding="utf-8"))
    methods: dict[str, Method] = {}
    for name, entry in entries.items():
        base = entry.pop("same_as", None)
        if base is not None:
            entry |= {"overrides": methods[base].overrides, "teachers": methods[base].teachers}
        teachers = tuple(entry.pop("teachers", ()))
        methods[name] = Method(name=name, trained_as=base or name, teachers=teachers, **entry)
    return methods


def choose_methods(names: Sequence[str]) -> list[Method]:
    """Methods by name, by group (``prompts``) or ``all``, which is every method that is no ablation; each once.

    Raises:
        ValueError: a name that there is not.
    """
    methods = load_methods()
    groups = sorted({name.split(GROUP)[0] for name in methods if GROUP in name})
    chosen: dict[str, Method] = {}
    for wanted in names:
        found = [
            method
            for method in methods.values()
            if method.name == wanted
            or method.name.startswith(wanted + GROUP)
            or (wanted == "all" and GROUP not in method.name)
        ]
        if not found:
            plain = [name for name in methods if GROUP not in name]
            raise ValueError(f"there is no method {wanted!r}: choose among {plain}, the groups {groups}, or all")
        chosen |= {method.name: method for method in found}
    return list(chosen.values())


def in_equal_budget(overrides: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What a method changes, with as many patches an iteration as the others have: where it takes no unlabelled ones,
    labelled ones stand in their place.

    Args:
        overrides: of ``train.json``, the method's.
        values: what the comparison's ``train.json`` says, its options laid over it.
    """
    if overrides.get("unlabeled_batch") != 0:
        return dict(overrides)
    return {"labeled_batch": values["labeled_batch"] + values["unlabeled_batch"], **overrides}


def read_from_reference(method: Method, values: Mapping[str, Any]) -> Method:
    """The method, which reads the training of :data:`REFERENCE` if its overrides change nothing: no training twice.

    Args:
        method: any.
        values: what the comparison's ``train.json`` says, its options laid over it.
    """
    changes = any(key not in values or values[key] != value for key, value in method.overrides.items())
    return method if changes or method.teachers else replace(method, trained_as=REFERENCE, overrides={})


def refuse_contradictions(methods: Sequence[Method], options: Mapping[str, Any]) -> None:
    """Refuse an option, given for all methods, that changes what an ablation is named after which reads ``ours``.

    Args:
        methods: of the comparison.
        options: of it, the same for all methods.

    Raises:
        ValueError: such as ``decision/calibrated`` with ``decision_interval`` 0, which would train without it.
    """
    trained = [method for method in load_methods().values() if method.trained_as == method.name]
    for method in methods:
        group, is_ablation, _ = method.name.partition(GROUP)
        if not is_ablation or method.trained_as != REFERENCE:
            continue
        # How a later round trains is no opposite of ours.
        others = [other for other in trained if other.name.startswith(group + GROUP) and not other.teachers]
        varied = {key for other in others for key in other.overrides}
        if contradicted := sorted(varied & set(options)):
            raise ValueError(
                f"{method.name} is {REFERENCE} as it is, and --{contradicted[0]}, given for all methods, changes that: "
                "leave out one of the two"
            )
