"""What a notebook uses: a trained model, a session with clicks, whole folders, a whole training.

``aps_components`` itself offers these names, and imports this module when one of them is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from aps_components.bundle.locate import locate_bundle, require_weights
from aps_components.files import expanded
from aps_components.interactive import Answer, LoadedModel, Predictor
from aps_components.interactive import load_model as load_model_file
from aps_components.recipe import TrainingResults, train
from aps_components.segmentation import Segmentation, segment

__all__ = ["Answer", "LoadedModel", "Predictor", "Segmentation", "TrainingResults", "load_model", "segment", "train"]
CHECKPOINT = ".pt"


def load_model(
    model: str | os.PathLike[str],
    device: torch.device | str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Build a trained model and load its weights.

    Args:
        model: ``model.pt`` of a training, or its folder; or a bundle: its name, such as ``"la"``, its folder or its
            zip. The ``model.json`` beside the weights says how the model was built.
        device: ``cpu``, ``cuda``, ``cuda:1``; a GPU, if there is one, by default.
        settings: keys of ``model.json`` to other values, and ``overlap``, ``mirror_axes``, ``predictor``,
            ``precision``, ``largest_component``.

    Returns:
        The model, which :class:`Predictor` takes.

    Raises:
        FileNotFoundError: there is no such bundle, or it has no weights.
        CheckpointError: there is no such file, it is damaged, or ``model.json`` does not say how it was built.
        ValueError: an unknown device or setting.
    """
    return load_model_file(_weights(model), device, settings=settings)


def _weights(model: str | os.PathLike[str]) -> os.PathLike[str]:
    path = expanded(model)
    if path.suffix == CHECKPOINT or (path / "model.pt").is_file():
        return path
    return require_weights(locate_bundle(model))
