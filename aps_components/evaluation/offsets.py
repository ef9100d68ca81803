"""Offsets of the logits that give a model's labelled scans their true volumes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from aps_components.data.partial import NOT_LABELED, table_of
from aps_components.evaluation.metrics import foreground_regions, volume_ratio
from aps_components.evaluation.trained import TrainedModel
from aps_components.evaluation.truth import undrawn_of
from aps_components.label_map import kept_pieces, likeliest_class, log_probabilities
from aps_components.models.decision import Decision
from aps_components.options import Pieces
from aps_components.uncertainty import every

LEAST = math.log(1e-6)  # of a probability
MOST_VALUES = 12_000_000  # kept of each model: voxels of all scans, times classes; volumes of more are no better known


def set_offsets(model: TrainedModel, items: Sequence[Mapping[str, Any]], models: Sequence[str]) -> list[str]:
    """Set the offsets of some models, from these scans.

    Args:
        model: whose network's decision is changed; its tensors are then on the CPU.
        items: labelled scans that it learned from.
        models: ``a``, ``b`` or both.

    Returns:
        What was changed, a line for each model and class.
    """
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
