"""Weights to and from disk: written whole or not at all, read without executing anything, refused with reasons."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path, PurePath
from typing import IO, Any

import torch
from torch import Tensor, nn

from aps_components.errors import system_fault
from aps_components.files import replace_text, replacing
from aps_components.models.decision import offsets_of_before
from aps_components.models.settings import SETTINGS_OF_BEFORE, CheckpointError, read_settings, settings_file, trained_b
from aps_components.networks.sam3d import resized_position_tables
from aps_components.options import list_differences
from aps_components.ownership import replacing_together
from aps_components.unpacking import damaged_member

MAX_NAMED_KEYS = 8
MODEL_ENDING = ".pt"  # the settings lie beside it, in a file that ends in .json
# The settings of a checkpoint that evaluation and inference take over: its weights are worth nothing at others.
TRAINED_KEYS = (
    *("labels", "in_channels", "modalities", "spacing", "roi_size", "backbone", "strides", "kernel_sizes"),
    *("intensity", "fusion"),
)
PREPROCESSING = "preprocessing"  # the setting that lists what a scan goes through before the network
SPACING_AGREED = "spacing_agreed"  # true where nobody asked for a voxel size, and it is that of all scans
LISTED = ("transforms", PREPROCESSING)  # the settings that are lists of transforms, a line each
FOLDERS = re.compile(r'"[^"]*/(?=[^"/]*")')  # in such a line, of a file's name
NETWORK = "network_def"  # the setting that holds the network's arguments
# Arguments of a network that may be others than in training.
FREE = ("predictor", "mc_samples", "recompute", "sam_checkpoint")


def save_atomically(content: Any, path: str | Path, *, compressed: bool = False) -> None:
    """``torch.save`` to a temporary file beside ``path``, synced, then renamed over it.

    A run killed at any moment leaves the old file or the new one, never a part of one.

    Args:
        content: of the file.
        path: of the file.
        compressed: deflate it, for publishing: ``torch.load`` reads it as it reads any other, but cannot map it.
    """
    with replacing(path) as unfinished:
        _save(content, unfinished, compressed=compressed)


def _save(content: Any, path: Path, *, compressed: bool) -> None:
    with open(path, "wb") as stream:
        if compressed:
            whole = io.BytesIO()
            torch.save(content, whole)
            _deflate(whole, stream)
        else:
            torch.save(content, stream)
        stream.flush()
        os.fsync(stream.fileno())


def _deflate(source: IO[bytes], target: IO[bytes]) -> None:
    """The zip file that ``torch.save`` writes, compressed; its dates stay, so the same weights give the same file."""
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(target, "w") as packed:
        for entry in whole.infolist():
            name = zipfile.ZipInfo(entry.filename, entry.date_time)
            packed.writestr(name, whole.read(entry), zipfile.ZIP_DEFLATED, compresslevel=9)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``: nothing in the file is executed.

    Raises:
        CheckpointError: there is no such file, or it is damaged or holds more than weights.
    """
    path = Path(path)
    _require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on the pickle inside of a damaged file
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's own words advise to run what is in it
        raise CheckpointError(
            f"{path} is damaged or no checkpoint of weights alone (other objects can be code, and nothing of it was "
            "run); replace it, or have its state dict alone saved anew"
        ) from None
    except Exception as error:  # a damaged file makes torch raise almost anything, also without a message
        if fault := system_fault(error):
            raise CheckpointError(f"{path}: {fault}") from None
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        reason = type(error).__name__ if "weights_only" in reason else reason
        raise CheckpointError(f"{path} is damaged or no checkpoint of weights alone ({reason}); replace it") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict")
    if (member := damaged_member(path)) is not None:
        raise CheckpointError(f"{path} was altered since it was written (checksum of {member}); copy it again")
    return content


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a file, raw or under ``"model"``, of numbers that a network can have.

    Raises:
        CheckpointError: as of :func:`read_checkpoint`, or it holds other things, complex numbers, or some that are not
            finite.
    """
    content = read_checkpoint(path)
    weights = content.get("model", content)
    if not is_state_dict(weights):
        raise CheckpointError(f"{path} holds no state dict, neither as a whole nor under 'model'")
    if fault := numbers_fault(weights):
        raise CheckpointError(f"{path}: {fault}")
    return weights


def numbers_fault(weights: Mapping[str, Tensor]) -> str:
    """What is wrong with the numbers of weights, and the mend; empty where nothing is."""
    wrong = {
        "complex": [key for key, value in weights.items() if value.is_complex()],
        "not finite": [key for key, value in weights.items() if not torch.isfinite(value).all()],
    }
    for what, keys in wrong.items():
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            return f"weights that are {what} ({keys[0]}{more}); take the checkpoint of an earlier epoch, or train again"
    return ""


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {path}. Give one (--checkpoint FILE), or train one: python -m monai.bundle run "
            "training --config_file BUNDLE/configs/train.json --bundle_root BUNDLE --dataset_dir DIR"
        )


def load_weights(
    network: nn.Module,
    path: str | Path,
    *,
    only: str = "",
    settings: Mapping[str, Any] | None = None,
    other_roi_size: bool = False,
) -> nn.Module:
    """Load a state dict, raw or under ``"model"``, that must fit key by key and shape by shape; gives the network back.

    Args:
        network: receives the weights, in place.
        path: of the file.
        only: a prefix such as ``model_a.``: only these keys are loaded, and they must all be there.
        settings: what the caller is about to use; compared with what :func:`save_settings` wrote beside the file.
        other_roi_size: to train a model further on patches of another size: its position tables are interpolated.

    Raises:
        CheckpointError: the file cannot be read, or does not fit: which keys, shapes or settings differ, or the
            network has no weight that starts with ``only``.
    """
    weights = read_weights(path)
    _refuse_other_settings(path, settings or {}, free=(*FREE, "roi_size") if other_roi_size else FREE)
    wanted = {key: value for key, value in network.state_dict().items() if key.startswith(only)}
    if not wanted:
        raise CheckpointError(f"no weight of the network starts with {only!r}: nothing of {path} would be loaded")
    weights = offsets_of_before(network) | weights
    if other_roi_size:
        weights = resized_position_tables(weights, like=wanted)
    given = {key: value for key, value in weights.items() if key.startswith(only)}
    differences = _differences(wanted, given)
    if differences:
        raise CheckpointError(
            f"{path} is a checkpoint of another architecture:\n  "
            + "\n  ".join(differences)
            + "\nbuild the network with the settings it was trained with (num_classes, in_channels, filters, "
            "sam_variant, roi_size, fusion, ...), or give another checkpoint"
        )
    network.load_state_dict(given, strict=not only)
    if not only and not other_roi_size:
        _let_trained_answer(network, path)
    return network


def _let_trained_answer(network: nn.Module, path: str | Path) -> None:
    """Of a training of Model A alone nobody else can answer."""
    asked = getattr(network, "predictor", "a")
    if asked == "a" or trained_b(read_settings(path)):
        return
    if asked == "b":
        raise CheckpointError(
            f"{path} is of a training of Model A alone: its Model B knows nothing; leave predictor out"
        )
    print(f"{path} is of a training of Model A alone: Model A answers")
    setattr(network, "predictor", "a")  # noqa: B010  (of any module that has one)


def load_fitting(network: nn.Module, path: str | Path) -> list[str]:
    """Load every weight of a file that the network has under the same name and in the same shape, to train it further
    on other classes or channels. Position tables of a patch of another size are interpolated.

    Args:
        network: receives the weights, in place; others stay as they are.
        path: of a ``model.pt``.

    Returns:
        What was left, a line each: weights of the network that the file has not, or has in another shape.

    Raises:
        CheckpointError: the file cannot be read, or not one weight of it fits.
    """
    weights = read_weights(path)
    own = network.state_dict()
    weights = resized_position_tables(weights, like=own)
    fitting = {key: weights[key] for key in own if key in weights and weights[key].shape == own[key].shape}
    if not fitting:
        raise CheckpointError(f"{path}: not one of its weights fits this network; give a model of this project")
    network.load_state_dict(fitting, strict=False)
    return [
        f"{key}: {tuple(weights[key].shape)} in the file, {tuple(own[key].shape)} in the network"
        if key in weights
        else f"{key}: not in the file"
        for key in own
        if key not in fitting
    ]


def is_state_dict(weights: Any) -> bool:
    """Whether these are tensors by name and nothing else."""
    return isinstance(weights, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()
    )


def save_model(weights: Any, settings: Mapping[str, Any], path: str | Path, *, compressed: bool = False) -> None:
    """Weights and their settings, both or, where the disk is full or the process is killed while writing, none.

    What was at ``path`` before stays whole until both are written; only two renamings are left then. Of two processes
    that write to ``path`` at once one wins both.

    Raises:
        FolderInUseError: another process, such as a training, owns the folder.
    """
    with replacing_together(settings_file(path), path) as (beside, file):
        beside.write_text(_settings_text(settings), encoding="utf-8")
        _save(weights, file, compressed=compressed)


def _settings_text(settings: Mapping[str, Any]) -> str:
    return json.dumps(dict(settings), indent=1) + "\n"


def save_settings(settings: Mapping[str, Any], path: str | Path) -> None:
    """Write beside the checkpoint ``path`` what it was trained with, for :func:`load_weights` to compare."""
    replace_text(settings_file(path), _settings_text(settings))


def copy_settings(source: str | Path, target: str | Path, *, more: Mapping[str, Any] | None = None) -> None:
    """The settings beside one checkpoint, beside another, too, and ``more`` of them."""
    if not (settings := read_settings(source)):
        raise CheckpointError(f"{settings_file(source)}: missing; training writes it beside the weights: copy both")
    save_settings({**settings, **(more or {})}, target)


def without_folders(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings to be published: of a file its name alone, and of a case its hashes: the rest is nobody's business."""
    published = {
        key: PurePath(value).name if isinstance(value, str) and os.sep in value else value
        for key, value in settings.items()
    }
    for key, value in published.items():
        if key in LISTED and isinstance(value, list):
            published[key] = [FOLDERS.sub('"', line) for line in value]
    if isinstance(cases := published.get("cases"), Mapping):
        published["cases"] = {part: [{**case, "name": ""} for case in found] for part, found in cases.items()}
    return published


def trained_setting(path: str | Path, name: str, *default: Any) -> Any:
    """What the checkpoint ``path`` was trained with, such as its ``spacing``, from the settings beside it.

    Args:
        path: of the checkpoint.
        name: of the setting.
        default: given back where there are no settings, or not this one.

    Raises:
        CheckpointError: there is nothing to give back.
    """
    settings = read_settings(path)
    if name in settings:
        return settings[name]
    if default:
        return default[0]
    _require_file(Path(path))
    if not (beside := settings_file(path)).is_file():
        raise CheckpointError(
            f"{beside} is missing, which training writes beside {path}: copy it there, too, or give --{name}"
        )
    raise CheckpointError(f"{beside}, written in training, does not say {name!r}: give it with --{name}")


def trained_count(path: str | Path, default: int | None) -> int | None:
    """How many scans at the head of its datalist had a label by hand that the checkpoint ``path`` was trained on.

    Args:
        path: of the checkpoint.
        default: given back where nothing is known of it.
    """
    settings = read_settings(path)
    by_hand = settings.get("labeled_by_hand")
    return settings.get("labeled_count", default) if by_hand is None else by_hand


def trained_cases(path: str | Path | None) -> dict[str, Any]:
    """The scans that the checkpoint ``path`` was trained with, see ``data.case_identities``; {} where nothing says so.

    Args:
        path: of the checkpoint; None for none.
    """
    return {} if path is None else dict(read_settings(path).get("cases") or {})


def trained_network(path: str | Path) -> dict[str, Any]:
    """The arguments of the network that the checkpoint ``path`` holds, by name, as far as its settings say.

    Older settings have other names for some of them.
    """
    settings = read_settings(path)
    known = ("in_channels", "roi_size", "fusion", *SETTINGS_OF_BEFORE)
    found = {key: settings[key] for key in known if key in settings}
    found |= {"num_classes": len(settings["labels"])} if "labels" in settings else {}
    return found | settings.get(NETWORK, {})


def _refuse_other_settings(path: str | Path, settings: Mapping[str, Any], *, free: Collection[str] = FREE) -> None:
    """A network at another spacing or intensity gives plausible nonsense, which no shape reveals."""
    trained, used = read_settings(path), json.loads(json.dumps(dict(settings)))
    if "labeled_count" in trained:
        trained["labeled_count"] = trained_count(path, None)
    trained |= {f"{NETWORK}#{key}": value for key, value in trained_network(path).items() if key not in free}
    used |= {f"{NETWORK}#{key}": value for key, value in used.pop(NETWORK, {}).items()}
    different = [key for key in used if key in trained and trained[key] != used[key]]
    if PREPROCESSING in different:
        raise CheckpointError(
            f"{path} was trained on scans that were preprocessed otherwise: this configuration's list is "
            f"{'; '.join(list_differences(trained[PREPROCESSING], used[PREPROCESSING]))}. List the same transforms"
        )
    if different:
        raise CheckpointError(
            f"{path} was trained with other settings: "
            + "; ".join(f"{key} {trained[key]!r} there, {used[key]!r} now" for key in different)
            + ". Give the same: "
            + " ".join(f"--{key} {_typed(trained[key])}" for key in different)
        )


def _typed(value: Any) -> str:
    """A value as the command line takes it; MONAI passes over ``null`` and ``None`` there."""
    return "'$None'" if value is None else f"'{json.dumps(value)}'"


def _differences(wanted: dict[str, Tensor], given: dict[str, Any]) -> list[str]:
    """What stands against loading ``given`` where ``wanted`` is expected, a line each."""
    missing = [key for key in wanted if key not in given]
    unexpected = [key for key in given if key not in wanted]
    shapes = [
        f"{key}: {tuple(given[key].shape)} in the file, {tuple(value.shape)} in the network"
        for key, value in wanted.items()
        if isinstance(given.get(key), Tensor) and given[key].shape != value.shape
    ]
    lines = []
    for what, keys in (("missing", missing), ("unexpected", unexpected), ("other shape", shapes)):
        shown = keys[:MAX_NAMED_KEYS]
        lines += [f"{what}: {key}" for key in shown]
        if len(keys) > len(shown):
            lines.append(f"{what}: and {len(keys) - len(shown)} more")
    return lines
