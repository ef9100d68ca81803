"""A configuration with all that was laid over it: every option is known, of its type, and fits the others."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigComponent, ConfigParser, ReferenceResolver
from monai.bundle.properties import InferProperties, TrainProperties
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS

from aps_components.configuration.options import DATASET_OPTIONS, OPTIONS, TRAINING_OPTIONS, contradictions
from aps_components.configuration.parser import calling_parser, calling_workflow
from aps_components.configuration.settings import FILES
from aps_components.configuration.targets import arguments_of, kind_of_argument, near_target, target_of
from aps_components.errors import root_cause
from aps_components.models import TRAINED_KEYS
from aps_components.options import Kind, literal, meant, refuse_cut_values

TARGET = "_target_"
SPECIAL = re.compile("_[a-z]+_")  # keys that say how MONAI makes a component
LISTS = ("deterministic_transforms", "random_transforms")  # under "train", as the model zoo names them
COMMAND_LINE = ("monai", "bundle", "__main__.py")
COMPARED = "trained_with"  # holds what is compared with a model's settings
# Nothing refers to these: MONAI looks for them by name.
ENTRIES = ("imports", "initialize", "run", "finalize", "training", "evaluating", "inference", "displayable_configs")
# Where things are: MONAI's own tools set these, whether or not something lies there.
PLACES = ("bundle_root", "dataset_dir", "output_dir")
# What the values of label files mean: a file that renames the classes says so for all workflows.
CLASSES = ("label_values", "ignore", "regions")
# Parts of a workflow that are left over where a tool puts another in front of them, such as scans in a dataset.
PARTS = ("checkpointloader", "datalist", "dataloader", "dataset", "handlers", "inferer", "network", "preprocessing")
# What MONAI adds where a training is tracked.
TRACKING = (*DEFAULT_MLFLOW_SETTINGS["configs"], "tracking")
# An expression of one of these needs a dataset or a device, and says by itself what is wrong.
LATE = ("split", "device")
Config = dict[str, Any]


def check_options(parser: ConfigParser | None = None, *, more: Collection[str] = ()) -> None:
    """Refuse an option that there is not, or whose value does not fit; and make every value what it is meant to be.

    A command line hands over text and numbers, and MONAI takes a name that it does not know for a new one. Called at
    the head of ``initialize``, before anything is built: ``--objective#copy_paste false`` is False from then on.

    A key that a file of the user's own adds is known if something refers to it by ``@``, if it is the id that is run,
    or if it begins with an underscore.

    Args:
        parser: that holds everything; by default that of the expression in which this is called.
        more: further keys to let pass.

    Raises:
        ValueError: the options by name, and how to mend them.
    """
    arguments = sys.argv[1:] if Path(sys.argv[0]).parts[-3:] == COMMAND_LINE else []
    refuse_cut_values(arguments)
    if parser is None:
        workflow, parser = calling_workflow(), calling_parser()
        ids = [getattr(workflow, name, None) or "" for name in ("run_id", "init_id", "final_id")]
        _refuse_without_effect(parser, ids, given=_names(arguments))
        more = [*more, *ids]
    config: Config = parser.get()
    _refuse_unknown_keys(config, more)
    changes = {}
    for key, kind in _kinds(config):
        value = parser.get(key)
        if not _is_expression(value):
            meaning = kind(key, value)
            if meaning != value or type(meaning) is not type(value):
                changes[key] = meaning
    if changes:
        parser.update(changes)
        parser.parse(reset=True)
    _check_expressions(parser)


def lay_over(parser: ConfigParser, options: Mapping[str, Any], *, own: Collection[str] = ()) -> None:
    """Set keys of a configuration, which must have them, and check it all.

    Args:
        parser: to be changed.
        options: by name; a "#" reaches inside.
        own: keys that are the caller's to set.

    Raises:
        ValueError: the options by name, and how to mend them.
    """
    config: Config = parser.get()
    known = {key for key in config if not key.startswith("_")} - {"imports", *own}
    for key in options:
        _refuse_missing_parent(config, key, known)
    parser.update({key: _as_it_is(value) for key, value in options.items()})
    check_options(parser)


def needed_by(parser: ConfigParser, ids: Collection[str]) -> set[str]:
    """The outermost keys of a configuration on which some of its entries depend, themselves among them."""
    needed: set[str] = set()
    waiting = set(ids)
    while waiting:
        needed |= waiting
        waiting = {reference[0] for key in waiting for reference in _references(parser.get(key))} - needed
    return needed


def _names(arguments: Iterable[str]) -> list[str]:
    """The options of a command line, each by its outermost key."""
    options = (argument[2:].partition("=")[0] for argument in arguments if argument.startswith("--"))
    return [ReferenceResolver.split_id(option.replace("-", "_"))[0] for option in options]


def _refuse_without_effect(parser: ConfigParser, ids: Collection[str], *, given: Collection[str]) -> None:
    """What somebody types must do something; a file may say more than its workflow uses.

    An evaluation lies over the whole of a training, and lets its options pass, but for those after which other weights
    than the ones that were named would be evaluated.

    Args:
        parser: of the workflow.
        ids: that are run.
        given: outermost keys on the command line.

    Raises:
        ValueError: an option by name, and what to do instead.
    """
    needed = needed_by(parser, ids)
    if "train" in needed:
        for key in given:
            if key in TRAINING_OPTIONS and key not in {*needed, *TRAINED_KEYS, *CLASSES, *PLACES}:
                raise ValueError(
                    f"--{key} changes nothing in this training, in which the part that reads it was replaced: leave it "
                    "out"
                )
    elif "checkpoint" in needed and "checkpoint" not in given:
        for key in given:
            if key in FILES:
                raise ValueError(
                    f"--{key} is for a training to begin with, and changes nothing here: give the model with "
                    "--checkpoint FILE"
                )


def _as_it_is(value: Any) -> Any:
    """A text that is no expression, so that MONAI leaves a "#" in it alone, as of a path."""
    return literal(value) if isinstance(value, str) and not _is_expression(value) else value


def _refuse_missing_parent(config: Config, key: str, known: Collection[str]) -> None:
    """A key whose outer ones there are; whether its last part is known is seen afterwards."""
    first, *inner = ReferenceResolver.split_id(key)
    if first not in known:
        raise ValueError(f"no option --{key}; {meant(first, known)}")
    node: Any = config[first]
    path = first
    for part in inner[:-1]:
        names = dict(_children(node))
        if part not in names:
            raise ValueError(f"no option --{key}; {meant(part, [n for n in names if n != TARGET], inside=path)}")
        node, path = names[part], f"{path}#{part}"
    if inner and not isinstance(node, dict | list):
        raise ValueError(f"no option --{key}: {path} is {node!r}, in which nothing lies")


def _refuse_unknown_keys(config: Config, more: Collection[str]) -> None:
    referred = set(_references(config))
    tops = {reference[0] for reference in referred}
    with_effect = {
        *tops,
        *ENTRIES,
        *PLACES,
        *CLASSES,
        *PARTS,
        *TRACKING,
        *more,
        *(TRAINING_OPTIONS if "train" in config else ()),
    }
    with_effect |= set(TRAINED_KEYS if COMPARED in config else ())
    for key in config:
        if key not in with_effect and not key.startswith("_"):
            inside = [f"{path}#{key}" for path, taken in _taken(config) if key in taken]
            known = [name for name in config if name in with_effect and name != "imports"]
            hint = f"did you mean --{inside[0]}?" if inside else meant(key, known)
            raise ValueError(f"no option --{key}, nothing in the configuration refers to it; {hint}")
    for key, properties in (("train", TrainProperties), ("validate", TrainProperties)):
        if isinstance(branch := config.get(key), dict) and TARGET not in branch:
            names = {part[1] for part in _ids(properties) if part[0] == key and len(part) > 1}
            names |= {reference[1] for reference in referred if reference[0] == key and len(reference) > 1}
            if unknown := [name for name in branch if name not in names | {"trainer", "evaluator", *LISTS}]:
                raise ValueError(f"no option --{key}#{unknown[0]}; {meant(unknown[0], names, inside=key)}")
    for path, taken in _taken(config):
        for name in ConfigParser(config)[path]:
            if name not in taken and not name.startswith("_"):
                raise ValueError(f"no option --{path}#{name}; {meant(name, taken, inside=path)}")
    _refuse_strange_components(config)


def _refuse_strange_components(node: Any, path: str = "") -> None:
    """What MONAI would hand on as an argument, or leave as it is, and what names no class."""
    for name, child in _children(node):
        inner = f"{path}#{name}" if path else name
        if path and isinstance(node, dict) and SPECIAL.fullmatch(name) and name not in ConfigComponent.non_arg_keys:
            raise ValueError(f"no option --{inner}; {meant(name, ConfigComponent.non_arg_keys, inside=path)}")
        if name == TARGET and isinstance(child, str) and not _is_expression(child) and target_of(child) is None:
            near = near_target(child)
            raise ValueError(
                f"{inner}: there is no {child!r}; "
                + (f"did you mean {near!r}?" if near else "give a class of MONAI, or the full name of another one")
            )
        if name != "_meta_":
            _refuse_strange_components(child, inner)


def _taken(config: Config) -> Iterator[tuple[str, Collection[str]]]:
    """Id of every component whose arguments are known, with their names."""
    for path, component in _components(config):
        function = target_of(component[TARGET])
        if function is not None and (taken := arguments_of(function)) is not None:
            yield path, list(taken)


def _ids(properties: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    for entry in {**TrainProperties, **InferProperties, **properties}.values():
        for value in entry.values():
            if isinstance(value, str) and ReferenceResolver.sep in ReferenceResolver.normalize_id(value):
                yield ReferenceResolver.split_id(value)


def _kinds(config: Config) -> Iterator[tuple[str, Kind]]:
    """Every id whose type is known, with it."""
    parser = ConfigParser(config)
    yield from ((key, kind) for key, kind in OPTIONS.items() if key in parser)
    for path, component in _components(config):
        if (function := target_of(component[TARGET])) is not None:
            for name in component:
                key = f"{path}#{name}"
                if key not in OPTIONS and (kind := kind_of_argument(function, name)) is not None:
                    yield key, kind


def _check_expressions(parser: ConfigParser) -> None:
    """Options that are computed, and how all of a dataset's fit each other."""
    values = {}
    for key, kind in OPTIONS.items():
        if key in parser and key not in LATE:
            value = parser.get(key)
            if _is_expression(value) or key in DATASET_OPTIONS:
                try:
                    value = parser.get_parsed_content(key)
                except Exception as error:  # MONAI puts what is wrong into errors of its own
                    cause = root_cause(error)
                    raise cause from cause.__cause__
            if _is_expression(parser.get(key)):
                value = kind(key, value)
            values[key] = value
    if "labels" in values and (wrong := list(contradictions(values))):
        raise ValueError("\n".join(wrong))


def _components(node: Any, path: str = "") -> Iterator[tuple[str, Config]]:
    """Every component of a configuration with its id."""
    if isinstance(node, dict) and isinstance(node.get(TARGET), str) and not _is_expression(node[TARGET]):
        yield path, node
    for key, child in _children(node):
        if key != "_meta_":
            yield from _components(child, f"{path}#{key}" if path else key)


def _references(node: Any) -> Iterator[tuple[str, ...]]:
    """What is referred to anywhere, in parts, but for what refers to itself."""
    if isinstance(node, str):
        yield from (tuple(ReferenceResolver.split_id(found)) for found in ReferenceResolver.match_refs_pattern(node))
    for key, child in _children(node):
        if key != "_meta_":
            yield from _references(child)


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    yield from ((str(key), child) for key, child in children)


def _is_expression(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("$", "@", "%"))
