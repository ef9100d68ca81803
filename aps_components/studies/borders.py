"""Trains the network that moves the border past a click, on what models of folds got wrong.

    python -m aps_components.studies.borders WEIGHTS.pt RUN[=MODEL] [RUN[=MODEL] ...]

A RUN is the folder of an ``aps train`` with folds. On its labelled scans the answers are those of the models that did
not see them; on some unlabelled ones they are corrected towards the answer of a better model, the final one of the RUN
where no MODEL is given. A simulated annotator clicks
the deepest voxel of the largest error again and again. Each click is a sample: what lies around it, and which voxels
there are of its class. The iterations take the runs in turn, so that none outweighs the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from aps_components.data import evaluation_transforms
from aps_components.data.datalist import load_datalist
from aps_components.interactive import LoadedModel, load_model
from aps_components.label_map import likeliest_class
from aps_components.models import AutoPromptSeg, read_settings
from aps_components.prompts import BorderNetwork, Click, deepest_error, with_moved_borders
from aps_components.prompts.border_maps import BorderMaps, border_maps
from aps_components.prompts.border_network import FARTHEST

ALONE = {"predictor": "a"}
FADING = 4.0  # finest voxels over which a voxel's weight falls to 0, at the rim of what may change
CROSS_ENTROPY_WEIGHT = 3.0
DISTANCE = 3  # which of the maps the signed distance is


class Sample(NamedTuple):
    """One click."""

    maps: NDArray[np.float16]
    """[MAPS, d, h, w], of one modality."""
    target: NDArray[np.bool_]
    """[2, d, h, w]: of the click's class; inside the volume."""
    away: NDArray[np.float32]
    """[d, h, w], to the click, in finest voxels."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is drawn, and how long it is learned from.

    Args:
        clicks: on a labelled scan, for each model that did not see it.
        unlabelled: scans of each run.
        clicks_unlabelled: on one of them.
        iterations, batch, learning_rate: of the training.
        share_unlabelled: of the samples.
        seed: of all draws.
    """

    clicks: int = 12
    unlabelled: int = 60
    clicks_unlabelled: int = 5
    iterations: int = 2000
    batch: int = 6
    learning_rate: float = 1.5e-3
    share_unlabelled: float = 0.5
    seed: int = 0


def samples_of(run: Path, better: Path, asked: Asked) -> tuple[list[Sample], list[Sample]]:
    """Those of labelled and of unlabelled scans of one ``aps train``.

    Args:
        run: its folder.
        better: the model whose answers the others' are corrected towards, on unlabelled scans.
        asked: how many.

    Raises:
        ValueError: the run has no folds.
    """
    folds = sorted((run / "work").glob("fold_*"))
    if not folds:
        raise ValueError(f"{run} has no work/fold_1: give the folder of an aps train that divided its labelled scans")
    labelled: list[Sample] = []
    unlabelled: list[Sample] = []
    final = load_model(better, settings=ALONE)
    for index, fold in enumerate(folds):
        model = load_model(fold / "models" / "model.pt", settings=ALONE)
        scans = load_datalist(fold / "scans")
        for item in scans.validation:
            image, truth = _loaded(item, model)
            labelled += _corrected(image, _answer(model, image), truth, model, clicks=asked.clicks)
        for item in scans.unlabeled[index : asked.unlabelled : len(folds)]:
            image = _loaded({"image": item["image"]}, model)[0]
            word = likeliest_class(_answer(final, image), dim=0)[0].numpy()
            unlabelled += _corrected(image, _answer(model, image), word, model, clicks=asked.clicks_unlabelled)
    return labelled, unlabelled


def _loaded(item: dict[str, Any], model: LoadedModel) -> tuple[Tensor, NDArray[np.integer]]:
    """A scan and its label map on the network's grid; without a label, zeros."""
    settings = read_settings(model.checkpoint)
    found = evaluation_transforms(
        keys=[key for key in ("image", "label") if key in item],
        num_classes=len(model.labels),
        **{name: settings[name] for name in ("spacing", "intensity", "label_values", "in_channels")},
    )(item)
    image = found["image"].as_tensor()
    return image, np.asarray(found["label"][0]) if "label" in item else np.zeros(image.shape[1:], dtype=int)


@torch.inference_mode()
def _answer(model: LoadedModel, image: Tensor) -> Tensor:
    return model.inferer(image[None], model.network)[0].float().cpu()


def _corrected(
    image: Tensor, probabilities: Tensor, truth: NDArray[np.integer], model: LoadedModel, *, clicks: int
) -> list[Sample]:
    """A sample for each click; between them the border moves by geometry."""
    spacing = cast(AutoPromptSeg, model.network).model_b.relative_spacing
    said: list[Click] = []
    found: list[Sample] = []
    while len(said) < clicks:
        answer = likeliest_class(probabilities, dim=0)[0].numpy()
        click = deepest_error(answer, truth, spacing=spacing)
        if click is None:
            break
        seen = border_maps(image.numpy(), probabilities.numpy(), answer, click, said=said, spacing=spacing)
        found.append(Sample(seen.maps[0].astype(np.float16), _target(truth, click, seen), seen.away))
        probabilities = with_moved_borders(probabilities, [click], spacing=spacing)
        said.append(click)
    return found


def _target(truth: NDArray[np.integer], click: Click, seen: BorderMaps) -> NDArray[np.bool_]:
    target = np.zeros((2, *seen.away.shape), dtype=bool)
    target[(0, *seen.shown)] = truth[seen.inside] == click.label
    target[(1, *seen.shown)] = True
    return target


def train(runs: Sequence[tuple[list[Sample], list[Sample]]], asked: Asked) -> BorderNetwork:
    """A network from the samples of all runs."""
    torch.manual_seed(asked.seed)
    rng = np.random.default_rng(asked.seed)
    network = BorderNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=asked.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, asked.iterations)
    for iteration in range(asked.iterations):
        maps, target, away = _batch(*runs[iteration % len(runs)], rng, asked)
        loss = border_loss(network(maps), maps, target, away)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if iteration % 100 == 0:
            print(f"{iteration}/{asked.iterations}, loss {loss.item():.3f}", flush=True)
    return network.eval()


def _batch(
    labelled: list[Sample], unlabelled: list[Sample], rng: np.random.Generator, asked: Asked
) -> tuple[Tensor, Tensor, Tensor]:
    """Maps, targets and distances, turned and mirrored, with other contrasts."""
    pools = [
        unlabelled if unlabelled and rng.random() < asked.share_unlabelled else labelled for _ in range(asked.batch)
    ]
    drawn = [pool[int(rng.integers(len(pool)))] for pool in pools]
    maps = torch.from_numpy(np.stack([each.maps for each in drawn]).astype(np.float32))
    target = torch.from_numpy(np.stack([each.target for each in drawn]).astype(np.float32))
    away = torch.from_numpy(drawn[0].away)[None, None]
    flipped = [2 + axis for axis in range(3) if rng.random() < 0.5]
    order = [0, 1, *(2 + axis for axis in _turned(maps.shape[2:], rng))]
    maps, target, away = (each.flip(flipped).permute(order) for each in (maps, target, away))
    return torch.cat([_other_contrast(maps[:, :1], rng), maps[:, 1:]], dim=1), target, away


def _turned(size: Sequence[int], rng: np.random.Generator) -> list[int]:
    """An order of the three axes in which only those of the same length change places."""
    order = [0, 1, 2]
    for length in sorted(set(size)):
        alike = [axis for axis, extent in enumerate(size) if extent == length]
        for axis, other in zip(alike, rng.permutation(alike).tolist(), strict=True):
            order[axis] = other
    return order


def _other_contrast(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Scaled, shifted, noisy, and a quarter of the time inverted; [B, 1, d, h, w]."""
    shape = (len(image), 1, 1, 1, 1)
    gain = rng.uniform(0.7, 1.4, shape) * np.where(rng.random(shape) < 0.25, -1, 1)
    scaled = image * torch.from_numpy(gain.astype(np.float32)) + 0.3 * torch.randn(shape)
    return scaled + 0.1 * torch.randn_like(image)


def border_loss(logits: Tensor, maps: Tensor, target: Tensor, away: Tensor) -> Tensor:
    """Cross entropy near the click, and Dice of what is not yet of its class.

    Args:
        logits: of the network, [B, 1, d, h, w].
        maps: that it saw.
        target: [B, 2, d, h, w]: of the click's class; inside the volume.
        away: [1, 1, d, h, w], to the click.
    """
    near = ((FARTHEST + 1 - away) / FADING).clamp(0, 1) * target[:, 1:]
    losses = F.binary_cross_entropy_with_logits(logits, target[:, :1], reduction="none")
    entropy = (losses * near).sum() / near.sum()
    other = near * (maps[:, DISTANCE : DISTANCE + 1] > 0)
    chosen, wanted = logits.sigmoid() * other, target[:, :1] * other
    axes = [1, 2, 3, 4]
    overlap = (2 * (chosen * wanted).sum(axes) + 1) / (chosen.sum(axes) + wanted.sum(axes) + 1)
    return CROSS_ENTROPY_WEIGHT * entropy + (1 - overlap).mean()


def main() -> None:
    """Samples of all runs, a training, the weights in half precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("runs", nargs="+", metavar="RUN[=MODEL]")
    for name, value in vars(Asked()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    given = vars(parser.parse_args())
    weights, folders = given.pop("weights"), given.pop("runs")
    asked = Asked(**given)
    runs = []
    for folder in folders:
        run, _, model = folder.partition("=")
        runs.append(samples_of(Path(run), Path(model or f"{run}/bundle/models/model.pt"), asked))
        print(f"{folder}: {len(runs[-1][0])} clicks on labelled scans, {len(runs[-1][1])} on others", flush=True)
    network = train(runs, asked)
    torch.save({name: value.half() for name, value in network.state_dict().items()}, weights)


if __name__ == "__main__":
    main()
