"""``aps calibrate``: offsets, temperature and predicted Dice of a model that is trained already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aps_components.evaluation.doubt.calibrate import NONE, calibrate_doubt, refuse_unknown_scans
from aps_components.evaluation.doubt.held_out import KEY, TEMPERATURE
from aps_components.evaluation.offsets import set_offsets
from aps_components.evaluation.trained import SPLITS, load_trained
from aps_components.files import ensure_writable, refuse_special
from aps_components.models import MODEL_ENDING, read_checkpoint, read_settings, save_model
from aps_components.models.decision import Decision
from aps_components.models.settings import trained_b
from aps_components.options import whole

ANSWERS = ("predictor", "mirror_axes")  # how a scan is answered; inference does so by default where it was given


def calibrate(
    *,
    bundle: str | Path,
    dataset_dir: str | Path,
    checkpoint: str | Path,
    target: str | Path,
    cases: int = 20,
    held_out: str = SPLITS[0],
    options: Mapping[str, Any] | None = None,
) -> str:
    """Write a copy of a checkpoint whose Models A and B both give its labelled training scans their true volumes.

    The scans are segmented once, without offsets; then the offsets are set for all of them at once. How sure the copy
    is, and how good its answers will be, is calibrated on scans that it did not learn from, answered with the offsets.
    A training of Model A alone has no Model B to calibrate.

    Args:
        bundle: its folder.
        dataset_dir: of the scans it was trained on.
        checkpoint: ``model.pt`` of a training, with its settings beside it.
        target: the copy, whole or not at all; it may be the checkpoint itself.
        cases: number of scans, from the first on; 0 leaves the offsets as they are.
        held_out: ``validation`` or ``test``, that part of the dataset; a folder with other labelled scans; or ``none``.
        options: other keys of the bundle's evaluation to change. A ``predictor`` or ``mirror_axes`` among them becomes
            the copy's default in inference, from the settings beside it.

    Returns:
        What was found and changed, a line for each model and class.

    Raises:
        ValueError: an option or a checkpoint that does not fit.
    """
    cases = whole(least=0)("cases", cases)
    refuse_special(target, ending=MODEL_ENDING)
    refuse_unknown_scans(held_out)
    settings = read_settings(checkpoint)
    models = Decision.MODELS if trained_b(settings) else Decision.MODELS[:1]
    options = {**(options or {}), **_answering_alone(checkpoint, models, options or {})}
    ensure_writable(Path(target).parent)
    content, lines = read_checkpoint(checkpoint), []
    weights = content.get("model", content)
    if cases:
        model = load_trained(bundle, dataset_dir=dataset_dir, checkpoint=checkpoint, seen=True, options=options)
        lines = set_offsets(model, model.items[:cases], models)
        weights = model.network.state_dict()
    answering = {f"inference_{key}": value for key, value in options.items() if key in ANSWERS}
    kept = {key: value for key, value in settings.items() if key not in (KEY, TEMPERATURE)}
    with TemporaryDirectory() as work:
        copy = Path(work) / Path(target).name
        save_model(weights, kept | answering, copy)
        if held_out != NONE:
            lines += calibrate_doubt(bundle, copy, dataset_dir=dataset_dir, held_out=held_out, options=options)
        save_model(weights, read_settings(copy), target)
    return "\n".join([*lines, f"written: {target}"])


def _answering_alone(checkpoint: str | Path, models: Sequence[str], options: Mapping[str, Any]) -> dict[str, str]:
    """Of a training of Model A alone, Model A answers."""
    if "b" in models:
        return {}
    if (asked := options.get("predictor", "a")) != "a":
        raise ValueError(f"predictor {asked!r}: {checkpoint} is of a training of Model A alone; leave --predictor out")
    return {"predictor": "a"}
