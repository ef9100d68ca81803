"""``aps calibrate``: offsets, temperature and predicted Dice of a model that is trained already."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from aps_components.configuration.bundle_workflow import CONFIGS
from aps_components.data.datalist import DATALIST
from aps_components.data.partial import NOT_LABELED, table_of
from aps_components.data.to_judge import dataset_to_judge
from aps_components.evaluation.doubt.evaluated import calibration_of, read_answers
from aps_components.evaluation.doubt.held_out import KEY, TEMPERATURE, said
from aps_components.evaluation.evaluate import Evaluation
from aps_components.evaluation.metrics import foreground_regions, volume_ratio
from aps_components.evaluation.trained import SPLITS, NoScansError, TrainedModel, load_trained
from aps_components.evaluation.truth import undrawn_of
from aps_components.files import expanded, refuse_special
from aps_components.label_map import kept_pieces, likeliest_class, log_probabilities
from aps_components.models import (
    MODEL_ENDING,
    ensure_writable,
    read_checkpoint,
    read_settings,
    save_model,
    save_settings,
    trained_cases,
)
from aps_components.models.decision import Decision
from aps_components.models.settings import trained_b
from aps_components.options import Pieces, whole
from aps_components.uncertainty import every

ANSWERS = ("predictor", "mirror_axes")  # how a scan is answered; inference does so by default where it was given
NONE = "none"
LEAST = math.log(1e-6)  # of a probability
MOST_VALUES = 12_000_000  # kept of each model: voxels of all scans, times classes; volumes of more are no better known


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
    _refuse_unknown(held_out)
    settings = read_settings(checkpoint)
    models = Decision.MODELS if trained_b(settings) else Decision.MODELS[:1]
    options = {**(options or {}), **_answering_alone(checkpoint, models, options or {})}
    ensure_writable(Path(target).parent)
    content, lines = read_checkpoint(checkpoint), []
    weights = content.get("model", content)
    if cases:
        model = load_trained(bundle, dataset_dir=dataset_dir, checkpoint=checkpoint, seen=True, options=options)
        lines = _set_offsets(model, model.items[:cases], models)
        weights = model.network.state_dict()
    answering = {f"inference_{key}": value for key, value in options.items() if key in ANSWERS}
    kept = {key: value for key, value in settings.items() if key not in (KEY, TEMPERATURE)}
    save_model(weights, kept | answering, target)
    if held_out != NONE:
        lines += _calibrate_doubt(bundle, Path(target), dataset_dir=dataset_dir, held_out=held_out, options=options)
    return "\n".join([*lines, f"written: {target}"])


def _set_offsets(model: TrainedModel, items: Sequence[Mapping[str, Any]], models: Sequence[str]) -> list[str]:
    """Of some models, from these scans; what was changed, a line for each model and class."""
    decision = model.network.decision
    decision.reset()
    share = MOST_VALUES / model.network.num_classes / len(items)
    answers = [_answer(model, item, models, share=share) for item in tqdm(items, unit="scan")]
    decision.cpu()  # where the answers are
    label, undrawn = (torch.cat([answer[name] for answer in answers], dim=-1) for name in ("label", "undrawn"))
    lines = []
    for name in models:
        logits = torch.cat([answer[name] for answer in answers], dim=-1)
        found = fit_offsets(decision, logits, label, name, labels=model.labels, undrawn=undrawn)
        lines += [f"Model {name.upper()}, {line}" for line in found]
    return lines


def _calibrate_doubt(
    bundle: str | Path,
    target: Path,
    *,
    dataset_dir: str | Path,
    held_out: str,
    options: Mapping[str, Any] | None,
) -> list[str]:
    """Evaluate as inference answers, and keep beside the weights what that says; lines for the user."""
    settings = read_settings(target)
    predictor = settings.get("inference_predictor", "average")
    with TemporaryDirectory() as work:
        dataset, split = _held_out_scans(held_out, dataset_dir, bundle=bundle, settings=settings, work=Path(work))
        try:
            model = load_trained(
                bundle,
                dataset_dir=dataset,
                checkpoint=target,
                split=split,
                options={**(options or {}), "predictor": predictor},
            )
        except NoScansError as error:
            return [f"no predicted Dice and no temperature: {error}"]
        with redirect_stdout(StringIO()):  # the table of an evaluation is not what was asked for
            _evaluation(model, Path(work) / "answers", predictor, split=split).run()
        answers = read_answers(Path(work) / "answers", predictor=predictor, largest_component=model.largest_component)
    known = bool(trained_cases(target))
    source = f"held out, {split}" if known else f"{split}, taken for held out"
    stored = calibration_of(answers, labels=model.labels, source=source)
    save_settings({**settings, **stored}, target)
    note = f"nothing beside {target} says which scans it learned from: whether these are new to it is unknown"
    return said(stored) + ([] if known else [f"Note: {note}"])


def _refuse_unknown(held_out: str) -> None:
    if held_out not in (*SPLITS, NONE) and not expanded(held_out).exists():
        raise ValueError(f"held_out {held_out!r} is no folder, and none of {', '.join((*SPLITS, NONE))}")


def _held_out_scans(
    held_out: str, dataset_dir: str | Path, *, bundle: str | Path, settings: Mapping[str, Any], work: Path
) -> tuple[Path, str]:
    """The dataset and the part of it."""
    if held_out in SPLITS:
        return Path(dataset_dir), held_out
    known = Path(bundle) / CONFIGS / DATALIST
    dataset = dataset_to_judge(
        held_out, known=known, labels=settings["labels"], work=ensure_writable(work), split=SPLITS[1]
    )
    return dataset, SPLITS[1]


def _evaluation(model: TrainedModel, folder: Path, predictor: str, *, split: str) -> Evaluation:
    return Evaluation(
        items=model.items,
        network=model.network,
        inferer=model.inferer,
        preprocessing=model.image_preprocessing,
        labels=model.labels,
        device=model.device,
        output_dir=folder,
        split=split,
        answering=predictor,
        regions=model.regions,
        label_values=model.label_values,
        largest_component=model.largest_component,
        pictures=0,
    )


def _answering_alone(checkpoint: str | Path, models: Sequence[str], options: Mapping[str, Any]) -> dict[str, str]:
    """Of a training of Model A alone, Model A answers."""
    if "b" in models:
        return {}
    if (asked := options.get("predictor", "a")) != "a":
        raise ValueError(f"predictor {asked!r}: {checkpoint} is of a training of Model A alone; leave --predictor out")
    return {"predictor": "a"}


def _answer(model: TrainedModel, item: Mapping[str, Any], models: Sequence[str], *, share: float) -> dict[str, Tensor]:
    """Some models' log-probabilities [1, C, 1, 1, N], the label [1, 1, 1, 1, N] and the classes that nobody drew, as
    bool [1, C, 1, 1, N], of at most ``share`` voxels."""
    data = model.preprocessing(item)
    image = data["image"].as_tensor()[None].to(model.device)
    if "b" in models:
        prediction = model.inferer.predict(image, model.network)
        answers = {"a": prediction.probabilities_a, "b": prediction.probabilities_b}
    else:
        with torch.inference_mode():
            answers = {"a": model.inferer(image, model.network)}
    volumes = {name: log_probabilities(answer.cpu()) for name, answer in answers.items()}
    volumes = {name: of_kept_pieces(volume, model.largest_component) for name, volume in volumes.items()}
    volumes |= label_and_undrawn(data, classes=model.network.num_classes)
    return {name: thinned(volume, share=share) for name, volume in volumes.items()}


def label_and_undrawn(loaded: Mapping[Any, Any], *, classes: int) -> dict[str, Tensor]:
    """Of a loaded item: ``label`` [1, 1, D, H, W], and ``undrawn``, bool [1, C, D, H, W], the same everywhere."""
    label = loaded["label"].as_tensor()[None].long()
    table = table_of(undrawn_of(loaded))[:classes]
    return {"label": label, "undrawn": table.view(1, -1, 1, 1, 1).expand(1, classes, *label.shape[2:])}


def fit_offsets(
    decision: Decision, logits: Tensor, label: Tensor, model: str, *, labels: Mapping[int, str], undrawn: Tensor
) -> list[str]:
    """Set a model's offsets (:meth:`Decision.fit`), and say for each foreground class what that does to its volume."""
    offsets = decision.fit(logits, label, model, undrawn=undrawn)
    told = ((label != NOT_LABELED) & ~undrawn).numpy()
    without, with_it = (likeliest_class(scores, dim=1)[:, 0].numpy() for scores in (logits, decision(logits, model)))
    lines = []
    for region in foreground_regions(labels):
        true = region.mask(label[:, 0].numpy())
        was, now = (
            100 * volume_ratio(region.mask(found) & told[:, region.classes[0]], true) for found in (without, with_it)
        )
        lines.append(
            f"{region.name}: offset {offsets[region.classes[0]]:+.2f}, {was:.1f} % of the true volume without, "
            f"{now:.1f} % with it"
        )
    return lines


def of_kept_pieces(scores: Tensor, pieces: Pieces) -> Tensor:
    """Log-probabilities in which all that an answer drops is certain background.

    Else the volume of a false piece far away, which no answer shows, would shrink the true one.

    Args:
        scores: log-probabilities, [1, C, D, H, W].
        pieces: which stay, see :func:`aps_components.label_map.kept_pieces`.
    """
    if not pieces:
        return scores
    found = likeliest_class(scores, dim=1)[0, 0].numpy()
    kept = kept_pieces(found, pieces, num_classes=scores.shape[1])
    certain = torch.full((1, scores.shape[1], 1, 1, 1), LEAST).to(scores)
    certain[:, 0] = 0
    return torch.where(torch.from_numpy(kept != found), certain, scores)


def thinned(volume: Tensor, *, share: float) -> Tensor:
    """At most ``share`` voxels of [1, C, D, H, W], evenly spread, as [1, C, 1, 1, N]."""
    stride = max(1, math.ceil((volume[0, 0].numel() / share) ** (1 / 3)))
    return every(volume, stride).flatten(2)[:, :, None, None]
