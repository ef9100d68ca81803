"""The folder of an app for MONAI Label, with the chosen bundles in it.

The app's folder keeps what is trained in it: configurations are copied anew at every start, weights never.
"""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from aps_components.bundle.locate import WEIGHTS, bundle_name
from aps_components.configuration import network_settings
from aps_components.configuration.bundle_workflow import TRAINED_WITH
from aps_components.files import copy_folder, copy_whole, ensure_writable, expanded, replace_text, replacing
from aps_components.label_server.bundle_model import inference_config
from aps_components.label_server.clicks import INTERACTIVE, SCRIBBLED
from aps_components.models import (
    NETWORK,
    TRAINED_KEYS,
    CheckpointError,
    copy_settings,
    save_model,
    settings_file,
    trained_setting,
)
from aps_components.ownership import alone_in
from aps_components.plain_json import read_object

COPIED = ("LICENSE", "configs", "docs", "aps_components")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# MONAI Label takes a bundle for something else by a part of its name.
OTHER_KINDS = ("deepedit", "deepgrow", "detection", "classification")
UNTRAINED = "untrained"
MAIN = "main.py"


def prepare_app(
    app: str | os.PathLike[str],
    *,
    bundles: Sequence[Path],
    checkpoints: Mapping[str, str | os.PathLike[str]] | None = None,
    untrained: bool = False,
) -> dict[str, str]:
    """Write the app and its models; what was trained in it before stays.

    Args:
        app: the app's folder, made if missing.
        bundles: folders of bundles; for the names of the models see :func:`model_name`.
        checkpoints: bundle name to weights, for an app that has none of that bundle yet.
        untrained: give a bundle without weights random ones: MONAI Label passes over a bundle that has none.

    Returns:
        Model name to where its weights come from, in words.

    Raises:
        ValueError: names that do not work, weights that do not fit.
        FileNotFoundError: a bundle without weights.
        PermissionError: the folder cannot be written into.
        FolderInUseError: a server runs in it.
    """
    app, checkpoints = expanded(app), dict(checkpoints or {})
    names = [model_name(bundle) for bundle in bundles]
    _check_names(names, checkpoints)
    origins = {}
    with alone_in(ensure_writable(app)):  # a server that runs reads its files
        for name, bundle in zip(names, bundles, strict=True):
            model = app / "model" / name
            _copy_files(bundle, model)
            origins[name] = _place_weights(bundle, model, checkpoints.get(name), untrained=untrained)
            _take_over_settings(model)
        copy_whole(Path(__file__).with_name(MAIN), app / MAIN)
    return origins


def model_name(bundle: Path) -> str:
    """What viewers call a bundle: its folder's name; of one that ``aps train`` left in ``OUT/bundle`` that of OUT, if
    MONAI Label takes it."""
    name = bundle_name(bundle)
    return bundle.name if _fault_of(name) else name


def _fault_of(name: str) -> str:
    """What stands against a name, or nothing."""
    if not NAME.fullmatch(name):
        return f"the bundle's folder is named {name!r}; take letters, digits, '_', '-' and '.'"
    if kinds := [kind for kind in OTHER_KINDS if kind in name.lower()]:
        return f"MONAI Label takes {name!r} for something else because of {kinds[0]!r}: rename its folder"
    if name.endswith((INTERACTIVE, SCRIBBLED)):
        return f"{name!r} is the name of another bundle's further task: rename its folder"
    return ""


def _check_names(names: Sequence[str], checkpoints: Mapping[str, Any]) -> None:
    if not names:
        raise ValueError("no bundle: name at least one, as in --bundles la")
    for name in names:
        if fault := _fault_of(name):
            raise ValueError(fault)
        if names.count(name) > 1:
            raise ValueError(f"two bundles are named {name!r}: rename one of their folders")
    if unknown := sorted(set(checkpoints) - set(names)):
        raise ValueError(f"--checkpoint names {unknown[0]!r}, which is none of the bundles {', '.join(names)}")


def _copy_files(bundle: Path, model: Path) -> None:
    """All but weights, data and results."""
    model.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        source, target = bundle / name, model / name
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            copy_folder(source, target)
        elif source.is_file():
            copy_whole(source, target)


def _place_weights(bundle: Path, model: Path, checkpoint: str | os.PathLike[str] | None, *, untrained: bool) -> str:
    own, target = bundle / WEIGHTS, model / WEIGHTS
    source = expanded(checkpoint) if checkpoint is not None else own
    if checkpoint is not None and not source.is_file():
        raise FileNotFoundError(f"{source}: no such checkpoint for {model.name!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file():
        _check_weights(model, target)
        if checkpoint is not None and not filecmp.cmp(source, target, shallow=False):
            raise ValueError(
                f"{target} is there already and differs from {source}; take another --app, or move it away with the "
                "other files of its folder"
            )
        if trained_setting(target, UNTRAINED, False):
            return "UNTRAINED: random weights, answers mean nothing until it was trained"
        newer = checkpoint is None and own.is_file() and not filecmp.cmp(own, target, shallow=False)
        return f"{target}, of this app" + (f"; the bundle's own {own} differ and are not used" if newer else "")
    if source.is_file():
        _check_weights(model, source)
        settings = settings_file(source)
        with replacing(target) as unfinished:
            shutil.copy2(source, unfinished)
            if settings.is_file():
                copy_settings(source, target)
        return str(source) + ("" if settings.is_file() else f"; no {settings.name} beside it: the bundle's voxel size")
    if not untrained:
        raise FileNotFoundError(
            f"the bundle {model.name!r} has no weights ({own} is missing), and MONAI Label would leave it out without "
            f"a word. Train it, give weights (--checkpoint {model.name}=FILE), or start with random ones to label "
            "scans and train in MONAI Label (--untrained)"
        )
    _write_untrained(model)
    return "UNTRAINED: random weights, answers mean nothing until it was trained"


def _write_untrained(model: Path) -> None:
    """Random weights, those of the bundle's own seed, and the settings that say so."""
    training = read_object(model / "configs" / "train.json")
    config = inference_config(model, model / WEIGHTS)
    torch.manual_seed(training.get("seed", 0))
    network = config.value("network_def")
    settings = {**config.value(TRAINED_WITH), NETWORK: network_settings(config.parser), UNTRAINED: True}
    save_model(network.state_dict(), settings, model / WEIGHTS)


def _take_over_settings(model: Path) -> None:
    """Training in the app goes on with the model's weights, so it needs what these were trained with."""
    file = model / "configs" / "train.json"
    content = read_object(file, keys=TRAINED_KEYS)
    settings = {key: trained_setting(model / WEIGHTS, key, content[key]) for key in TRAINED_KEYS}
    if any(content[key] != value for key, value in settings.items()):
        replace_text(file, json.dumps(content | settings, indent=4, ensure_ascii=False) + "\n")


def _check_weights(model: Path, weights: Path) -> None:
    """MONAI Label would run random ones where these do not fit."""
    config, settings = inference_config(model, weights), settings_file(weights)
    try:
        config.load_network(weights)
    except CheckpointError as error:
        if settings.is_file():
            raise
        keys = ", ".join(TRAINED_KEYS)
        raise CheckpointError(
            f"{error}\n{settings} is missing, which training writes: if these weights were trained with another "
            f"{keys} than the bundle has, write those into it as JSON"
        ) from error
