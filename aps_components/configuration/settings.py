"""The settings of a run and of its model, as they are kept with the weights, in one place."""

from __future__ import annotations

import json
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver

import aps_components
from aps_components.configuration.described import image_lines, transform_lines
from aps_components.configuration.options import TRAINING_OPTIONS
from aps_components.configuration.parser import calling_parser
from aps_components.configuration.targets import arguments_of, target_of
from aps_components.data import agreed_voxel_size, case_identities, dataset_name
from aps_components.files import sha256_of
from aps_components.models import (
    NETWORK,
    PREPROCESSING,
    SPACING_AGREED,
    TRAINED_KEYS,
    build_auto_prompt_seg,
    trained_cases,
)
from aps_components.terminal import shown

TARGET = "_target_"
OTHERWISE = "otherwise"  # what a trained network is built with where its model does not say it
# Where a run lies and how fast it is; what is learned does not depend on these.
WITHOUT_EFFECT = (
    *("bundle_root", "dataset_dir", "ckpt_dir", "output_dir", "device", "num_workers", "cache_rate", "cuda_graphs"),
    *("cache_dir", "val_interval", "overlap", "mirror_axes"),
)
SPACING = "spacing"
FILES = ("pretrained", "sam_checkpoint")
# Components whose arguments are kept as a whole, and others of which only what is no option of its own.
WHOLE = (NETWORK, "objective")
OTHERS = ("optimizer", "lr_scheduler", "teacher", "train#dataloader", "train#trainer")
FREE_OF_NETWORK = ("recompute", "sam_checkpoint")
# Where a training lists its transforms, and where a workflow lists what a scan goes through before the network.
TRANSFORMS = ("train#deterministic_transforms", "train#random_transforms")
BEFORE_NETWORK = ("validate#preprocessing#transforms", "preprocessing#transforms")


def run_settings(parser: ConfigParser | None = None) -> dict[str, Any]:
    """Everything that a training depends on: options, arguments of its components, transforms and scans.

    Args:
        parser: of a ``train.json``; by default that of the expression in which this is called.

    Returns:
        Of JSON's types: options by name, ``network_def`` and ``objective`` with all their arguments, defaults included,
        under ``others`` what other components have besides the options, under ``transforms`` those of a training and
        under ``preprocessing`` those of a scan that is segmented, a line each, and under ``cases`` the scans.
    """
    parser = parser or calling_parser()
    names = [key for key in TRAINING_OPTIONS if "#" not in key and key in parser]
    settings = {key: parser.get_parsed_content(key) for key in names if key not in (*WITHOUT_EFFECT, *FILES)}
    settings["epochs"] = parser.get_parsed_content("train#trainer#max_epochs")
    for key in FILES:
        if key in parser and (file := parser.get_parsed_content(key)) is not None:
            settings |= {key: shown(file), f"{key}_sha256": sha256_of(file)}
    for path in WHOLE:
        settings[path] = _arguments(parser, path)
    others = {path.replace("#", "."): _arguments(parser, path, besides=[*names, "num_classes"]) for path in OTHERS}
    settings["others"] = {name: own for name, own in others.items() if own}
    listed = [path for path in TRANSFORMS if path in parser] or ["train#preprocessing#transforms"]
    settings["transforms"] = [line for path in listed for line in transform_lines(parser, path)]
    settings |= _preprocessing(parser) | _scans(parser)
    if settings.get(SPACING, ...) is None:  # the model is to know it, for scans of another size
        size = agreed_voxel_size(parser.get_parsed_content("train#dataset").data)
        settings |= {SPACING: size} if size is None else {SPACING: size, SPACING_AGREED: True}
    return {**_plain(settings), "code": aps_components.__version__}


def model_settings(parser: ConfigParser | None = None) -> dict[str, Any]:
    """What a configuration is about to use a model with, to be compared with what is kept with its weights.

    Args:
        parser: of any workflow; by default that of the expression in which this is called.
    """
    parser = parser or calling_parser()
    keys = [*TRAINED_KEYS, *(("labeled_count", "validation_count") if "evaluation" in parser else ())]
    found = {key: parser.get_parsed_content(key) for key in keys if key in parser}
    return _plain(found | _preprocessing(parser))


def _preprocessing(parser: ConfigParser) -> dict[str, Any]:
    path = next((path for path in BEFORE_NETWORK if path in parser), None)
    return {} if path is None else {PREPROCESSING: image_lines(parser, path)}


def _scans(parser: ConfigParser) -> dict[str, Any]:
    """Which ones, by name and content; what MONAI Label hands over has no order, and no datalist."""
    value = parser.get_parsed_content
    dataset = value("train#dataset")
    cases = case_identities(
        dataset.data,
        value("validate#dataset#data"),
        ordered=not dataset.in_datastore,
        earlier=trained_cases(value("pretrained")),
        cache_dir=value("cache_dir"),
    )
    return {
        "dataset": dataset_name(value("dataset_dir"), default=f"{value('bundle_root')}/configs/datalist.json"),
        "labeled_by_hand": None if dataset.in_datastore else value("datalist").labeled_by_hand,
        "cases": cases,
    }


def network_settings(parser: ConfigParser | None = None) -> dict[str, Any]:
    """The arguments of ``network_def``, defaults included, by name; without those that change no answer.

    Args:
        parser: of any workflow; by default that of the expression in which this is called.
    """
    return _plain(_arguments(parser or calling_parser(), NETWORK))


def network_options(parser: ConfigParser | None = None) -> dict[str, Any]:
    """The options of a dataset that are arguments of a network, by name: each is compared with what a model says.

    Args:
        parser: of any workflow; by default that of the expression in which this is called.
    """
    parser = parser or calling_parser()
    taken = arguments_of(build_auto_prompt_seg) or ()
    names = [name for name in ("num_classes", *TRAINED_KEYS) if name in taken and name in parser]
    return {name: parser.get_parsed_content(name) for name in names}


def _arguments(parser: ConfigParser, path: str, *, besides: list[str] | None = None) -> dict[str, Any]:
    """Of a component: all of JSON's types that are given or have a default, or those given that are no option."""
    component = parser.get(path)
    if not isinstance(component, dict):
        return {}
    given = [name for name in component if not name.startswith("_") and _is_plain(parser, component[name])]
    if besides is not None:
        given = [name for name in given if component[name] not in [f"@{option}" for option in besides]]
    values = {name: parser.get_parsed_content(f"{path}#{name}") for name in given}
    function = target_of(component.get(TARGET, ""))
    if besides is None and function is not None:
        defaults = arguments_of(function) or {}
        known = {name: entry.default for name, entry in defaults.items() if entry.default is not entry.empty}
        otherwise = parser.get_parsed_content(f"{path}#{OTHERWISE}") if OTHERWISE in component else {}
        values = known | otherwise | values
    values = {name: value for name, value in values.items() if name not in (OTHERWISE, "checkpoint")}
    free = FREE_OF_NETWORK if path == NETWORK else ()
    return {name: value for name, value in values.items() if _is_json(value) and name not in free}


def _is_plain(parser: ConfigParser, value: Any) -> bool:
    """Whether nothing has to be built to know it."""
    if isinstance(value, dict | list):
        children = list(value.values()) if isinstance(value, dict) else value
        built = isinstance(value, dict) and TARGET in value
        return not built and all(_is_plain(parser, child) for child in children)
    if isinstance(value, str):
        return all(_is_plain(parser, parser.get(found)) for found in ReferenceResolver.match_refs_pattern(value))
    return True


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """As they come back from a file."""
    return dict(json.loads(json.dumps(settings)))
