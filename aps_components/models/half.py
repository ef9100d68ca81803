"""Checkpoints of half the size."""

from __future__ import annotations

from pathlib import Path

import torch

from aps_components.files import ensure_writable, refuse_special
from aps_components.models.model_file import (
    MODEL_ENDING,
    is_state_dict,
    read_checkpoint,
    save_model,
    without_folders,
)
from aps_components.models.settings import CheckpointError, read_settings, settings_file


def halve(source: str | Path, target: str | Path) -> Path:
    """Write a checkpoint's weights in half precision, float16, with the settings beside them, which name no folder.

    Networks that load them compute as before, in float32 or bf16, on weights rounded to 11 bits.

    Args:
        source: a state dict that training wrote: ``model.pt`` with ``model.json``.
        target: of the copy; its folder is made.

    Returns:
        The copy.

    Raises:
        CheckpointError: no state dict, no settings beside it, or a weight beyond float16's range.
    """
    source, target = Path(source), Path(target)
    refuse_special(target, ending=MODEL_ENDING)
    weights = read_checkpoint(source)
    if not weights or not is_state_dict(weights):
        raise CheckpointError(f"{source} holds more than weights: give the model.pt or model_best.pt of a training")
    if not settings_file(source).is_file():
        raise CheckpointError(f"{settings_file(source)}: missing; training writes it beside the weights: copy both")
    halves = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    if beyond := [key for key, value in halves.items() if not torch.isfinite(value).all()]:
        raise CheckpointError(f"{source}: {beyond[0]} has values beyond 65504 or that are not finite; keep float32")
    settings = without_folders(read_settings(source))
    ensure_writable(target.parent)
    save_model(halves, settings, target, compressed=True)
    return target
