"""A trained model from its file alone."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose

from aps_components.data import evaluation_transforms
from aps_components.files import expanded
from aps_components.inference import PromptedSlidingWindowInferer
from aps_components.machine import chosen_device
from aps_components.models import (
    NETWORK,
    PREPROCESSING,
    TRAINED_KEYS,
    CheckpointError,
    TwoModels,
    build_auto_prompt_seg,
    build_trained,
    load_weights,
    read_checkpoint,
    read_settings,
    settings_file,
)
from aps_components.models.settings import trained_b
from aps_components.options import Pieces, list_differences, pieces, refuse_unknown
from aps_components.terminal import brief

OVERLAP = 0.5
# What `evaluation_transforms` does, as training writes it down.
PREPROCESSED = [
    "LoadVolumed()",
    'Orientationd(axcodes="RAS", labels=[["L", "R"], ["P", "A"], ["I", "S"]])',
    "Resampled()",
    "NormalizeScand()",
    'EnsureTyped(dtype="torch.float32")',
]


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network and all that inference needs beside it."""

    checkpoint: Path
    """``model.pt``."""
    network: TwoModels
    """With its weights, in eval mode, on the device."""
    inferer: PromptedSlidingWindowInferer
    preprocessing: Compose
    """Of ``image`` alone, from its files to the network's grid."""
    labels: dict[int, str]
    """Class value to name, background included."""
    in_channels: int
    modalities: Sequence[str] | None = None
    """The files of a scan, in channel order; None where a scan is a file."""
    largest_component: Pieces = True
    """Which pieces of an answer stay, see ``label_map.kept_pieces``."""
    untaught: str | None = None
    """What its training left out that it needs to know what a person's prompts mean; None where it knows."""

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.decision.offsets.device

    @property
    def prompted(self) -> bool:
        """Whether training taught it what a person's prompts mean."""
        return self.untaught is None

    def class_value(self, label: int | str) -> int:
        """The value of a class, from its value or its name.

        Raises:
            ValueError: there is no such class; which ones there are.
        """
        return class_value(label, self.labels)

    def require_prompted(self) -> None:
        """Refuse a network that does not know what a click means.

        Raises:
            ValueError: it was trained without prompts; the mend.
        """
        if self.untaught is not None:
            raise ValueError(refusal(self.checkpoint, self.untaught))


def load_model(
    file: str | os.PathLike[str],
    device: torch.device | str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Build and load a trained model; ``model.json`` beside the file says how it was built and trained.

    Args:
        file: ``model.pt`` of a training, or its folder.
        device: ``cpu``, ``cuda``, ``cuda:1``; a GPU, if there is one, by default.
        settings: what is to be other than ``model.json`` says, or what it does not say: its keys, and ``overlap``,
            ``mirror_axes``, ``predictor``, ``precision``, ``largest_component``.

    Raises:
        CheckpointError: there is no such file, it is damaged, or ``model.json`` does not say how it was built.
        ValueError: an unknown device or setting.
    """
    where = chosen_device("device", device or ("cuda" if torch.cuda.is_available() else "cpu"))
    path = expanded(file)
    path = path / "model.pt" if path.is_dir() else path
    read_checkpoint(path)  # what is wrong with the weights comes before what is wrong beside them
    known = _Settings(path, settings or {})
    labels = known.labels()
    if different := list_differences(PREPROCESSED, known.get(PREPROCESSING, PREPROCESSED)):
        raise CheckpointError(
            f"{known.file}: scans of this model are preprocessed by transforms of its bundle ({'; '.join(different)}): "
            "segment with the bundle, as by aps segment --bundle BUNDLE"
        )
    network = _built(known, num_classes=len(labels))
    network.temperature = float(read_settings(path).get("temperature", 1.0))
    load_weights(network, path)
    return LoadedModel(
        checkpoint=path,
        network=network.to(where).eval(),
        inferer=PromptedSlidingWindowInferer(
            known["roi_size"],
            overlap=known.get("overlap", OVERLAP),
            precision=known.given.get("precision", "auto"),  # that of the training has no meaning here
            mirror_axes=known.get("mirror_axes", known.get("inference_mirror_axes", [])),
        ),
        preprocessing=evaluation_transforms(
            keys="image",
            spacing=known["spacing"],
            intensity=known["intensity"],
            in_channels=known.in_channels(),
            num_classes=len(labels),
        ),
        labels=labels,
        in_channels=known.in_channels(),
        modalities=known.get("modalities", None),
        largest_component=pieces("largest_component", known.get("largest_component", True)),
        untaught=untaught(known.merged),
    )


def class_value(label: int | str, labels: Mapping[int, str]) -> int:
    """The value of a class, from its value or its name; a ValueError says which classes there are."""
    values = {name: value for value, name in labels.items()}
    value = values.get(label) if isinstance(label, str) else label
    if not isinstance(value, Real) or isinstance(value, bool) or value not in labels:
        known = ", ".join(f"{value} {name!r}" for value, name in labels.items())
        raise ValueError(f"there is no class {brief(repr(label))}; there are: {known}")
    return int(value)


def untaught(settings: Mapping[str, Any]) -> str | None:
    """What the settings of a training leave out that a model needs to understand a click; None where nothing."""
    if (settings.get(NETWORK) or {}).get("model_b", "sam") != "sam":
        return "its Model B is no SAM"
    if not trained_b(settings):
        return "its Model B was not trained"
    return "no simulated_user in its settings" if settings.get("simulated_user") is None else None


def refusal(checkpoint: str | os.PathLike[str], reason: str) -> str:
    """What is wrong with a model that a training taught no prompts, and the mend."""
    return (
        f"{checkpoint} was trained without prompts ({reason}) and does not know what a click means: give aps train "
        """more --time, until its plan has a Model B; a training by hand needs --simulated_user "{}" and Model B"""
    )


class _Settings:
    """What ``model.json`` says, and what the caller says besides."""

    MORE = ("overlap", "mirror_axes", "predictor", "precision", "largest_component", "in_channels")

    def __init__(self, path: Path, more: Mapping[str, Any]) -> None:
        self.path, self.file, self.given = path, settings_file(path), dict(more)
        found = read_settings(path)
        refuse_unknown(self.given, {*found, *self.MORE, *TRAINED_KEYS, NETWORK})
        if not found and not self.given:
            raise CheckpointError(f"no {self.file}: put the one that training wrote beside {path.name}")
        self.merged: dict[str, Any] = {**found, **self.given}

    def __getitem__(self, name: str) -> Any:
        if name not in self.merged:
            raise CheckpointError(
                f"{self.file} does not say {name!r}: put the one that training wrote beside the weights, or add it"
            )
        return self.merged[name]

    def get(self, name: str, default: Any) -> Any:
        return self.merged.get(name, default)

    def labels(self) -> dict[int, str]:
        return {int(value): str(name) for value, name in self["labels"].items()}

    def in_channels(self) -> int:
        modalities = self.get("modalities", None)
        stored = self.get(NETWORK, {}).get("in_channels")
        return int(self.get("in_channels", stored or (len(modalities) if modalities else 1)))


def _built(known: _Settings, *, num_classes: int) -> TwoModels:
    """With the arguments that training stored, or as the bundles build it where it stored none."""
    arguments = inspect.signature(build_auto_prompt_seg).parameters
    given = {name: value for name, value in known.given.items() if name in arguments} | known.given.get(NETWORK, {})
    otherwise = {"in_channels": known.in_channels(), "roi_size": known["roi_size"]}
    if "mc_samples" in known.merged:
        otherwise["mc_samples"] = known["mc_samples"]
    given["predictor"] = known.given.get(
        "predictor", known.get("inference_predictor", known.get("predictor", "average"))
    )
    given["sam_checkpoint"] = None  # its weights are in the file
    try:
        return build_trained(checkpoint=known.path, otherwise=otherwise, **{**given, "num_classes": num_classes})
    except CheckpointError:
        raise
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError) as error:
        raise CheckpointError(
            f"{known.file}: {NETWORK} describes no network ({error}); copy the file again from the training"
        ) from error
