"""A bundle's network with trained weights, and scans to try it on: what measurements start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose

from aps_components.configuration import DATASET_OPTIONS, BundleConfig
from aps_components.data.datalist import Datalist
from aps_components.data.identity import digest_of
from aps_components.data.label_values import LabelValues
from aps_components.errors import plain_errors
from aps_components.evaluation.metrics import foreground_regions, mean_dice
from aps_components.evaluation.seen import unseen_items
from aps_components.files import real, sha256_of
from aps_components.inference import PromptedSlidingWindowInferer
from aps_components.models import TwoModels, read_settings, resolved_precision
from aps_components.options import Pieces, refuse_decided
from aps_components.plain_json import read_object

CONFIGS = ("train.json", "evaluate.json")
SPLITS = ("validation", "test")


class NoScansError(ValueError):
    """A part of a dataset holds no scan with a label."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """Everything that a bundle evaluates a checkpoint with."""

    checkpoint: Path
    network: TwoModels
    """With its weights, in eval mode, on the device."""
    inferer: PromptedSlidingWindowInferer
    items: list[dict[str, Any]]
    """With ``image`` and ``label`` files."""
    datalist: Datalist
    """All scans of the dataset, by what the training used them for."""
    preprocessing: Compose
    """Of ``image`` and ``label``, to the network's grid."""
    image_preprocessing: Compose
    """Of ``image`` alone, to be inverted."""
    labels: dict[int, str]
    in_channels: int
    label_values: LabelValues
    regions: Mapping[str, Sequence[int]] | None
    largest_component: Pieces
    device: torch.device
    settings: dict[str, Any]
    """What the figures depend on, of JSON's types."""

    def mean_dice(self, answer: np.ndarray, truth: np.ndarray) -> float:
        """Of two label maps [D, H, W]: mean over the foreground classes, or the regions, of the pieces that
        the bundle keeps."""
        regions = foreground_regions(self.labels, self.regions)
        return mean_dice(answer, truth, regions, largest_component=self.largest_component)


def scans_of_split(
    bundle: str | Path, *, dataset_dir: str | Path, split: str, options: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The scans with labels, image and label files of each, on which a bundle would evaluate a training.

    Args:
        bundle: its folder.
        dataset_dir: of the scans.
        split: ``validation`` or ``test``.
        options: other keys of the bundle's ``train.json`` and ``evaluate.json`` to change, such as ``labeled_count``.

    Raises:
        FileNotFoundError: no such bundle.
        ValueError: no such dataset, an unknown option or split, counts that the dataset does not have, or no such scan.
    """
    _refuse_split(split)
    root, given = real(bundle), dict(options or {})
    config = BundleConfig.read(root, *CONFIGS)
    for key, value in _own_values(root).items():  # there is no model yet that would say them
        config.parser[key] = value
    config.parser["datalist#counts_at_most"] = False
    places = {"bundle_root": str(root), "dataset_dir": str(real(dataset_dir))}
    refuse_decided(given, places)
    config.lay_over(given | places)
    with plain_errors():
        datalist: Datalist = config.value("datalist")
        found = _with_labels(datalist.part(split))
    _refuse_none(found, split, dataset_dir, mend="choose another --split, or have some kept back: --validation_count N")
    return found


def load_trained(
    bundle: str | Path,
    *,
    dataset_dir: str | Path,
    checkpoint: str | Path,
    split: str = "validation",
    seen: bool = False,
    options: Mapping[str, Any] | None = None,
) -> TrainedModel:
    """Build what ``train.json`` and ``evaluate.json`` of a bundle evaluate a checkpoint with.

    Labelled and validation scans are those of the training: as many as the settings beside the checkpoint say.

    Args:
        bundle: its folder.
        dataset_dir: of the scans.
        checkpoint: ``model.pt`` of a training.
        split: ``validation`` or ``test``.
        seen: take the scans whose labels, drawn by hand, the training saw instead, to adjust something and not to
            measure it.
        options: other keys of the two files to change.

    Raises:
        FileNotFoundError: no such bundle.
        ValueError: an unknown option or split, one that contradicts the checkpoint, a checkpoint that does not fit, no
            scan with a label, or validation scans that it was trained on.
    """
    _refuse_split(split)
    split = "training" if seen else split
    root, checkpoint, given = real(bundle), Path(checkpoint), dict(options or {})
    config = BundleConfig.read(root, *CONFIGS)
    if seen and "labeled_count" not in read_settings(checkpoint):
        config.parser["labeled_count"] = _own_values(root)["labeled_count"]
    places = {"bundle_root": root, "dataset_dir": real(dataset_dir), "checkpoint": real(checkpoint)}
    own = {key: str(path) for key, path in places.items()} | {"split": split}
    refuse_decided(given, own)
    config.lay_over(given | own)
    with plain_errors():
        model = _built(config, checkpoint, split, given)
    _refuse_none(model.items, split, dataset_dir)
    # With what it has seen something is adjusted, which is measured on these afterwards.
    unseen_items(model.datalist.validation, checkpoint=checkpoint, split=SPLITS[0])
    return model


def answering_settings(
    network: TwoModels, inferer: PromptedSlidingWindowInferer, *, device: torch.device
) -> dict[str, Any]:
    """How a scan is answered, of JSON's types: what the file beside the weights, and not the weights, may decide."""
    return {
        "predictor": network.predictor,
        "roi_size": list(inferer.roi_size),
        "overlap": inferer.overlap,
        "mirror_axes": [list(group) for group in inferer.mirror_axes],
        "precision": resolved_precision(device, inferer.precision),
        "device": str(device),
    }


def _refuse_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split {split!r} must be one of {SPLITS}: the model has seen the others")


def _refuse_none(
    items: Sequence[Mapping[str, Any]], split: str, dataset_dir: str | Path, *, mend: str = "choose another --split"
) -> None:
    if not items:
        raise NoScansError(f"there are no {split} scans with labels in {dataset_dir}: {mend}")


def _with_labels(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in items if "label" in item]


def _own_values(root: Path) -> dict[str, Any]:
    """The dataset as a bundle describes it."""
    content = read_object(root / "configs" / CONFIGS[0])
    return {key: content[key] for key in DATASET_OPTIONS if key in content}


def _built(config: BundleConfig, checkpoint: Path, split: str, options: dict[str, Any]) -> TrainedModel:
    value = config.value
    device = torch.device(value("device"))
    network = value("evaluation#network").to(device).eval()
    inferer: PromptedSlidingWindowInferer = value("inferer")
    datalist: Datalist = value("datalist")
    items = _with_labels(value("evaluation#items"))
    return TrainedModel(
        checkpoint=checkpoint,
        network=network,
        inferer=inferer,
        items=items,
        datalist=datalist,
        preprocessing=value("validate#preprocessing"),
        image_preprocessing=value("evaluation#preprocessing"),
        labels={int(index): name for index, name in value("labels").items()},
        in_channels=int(value("in_channels")),
        label_values=value("label_values"),
        regions=value("regions"),
        largest_component=value("largest_component"),
        device=device,
        settings={
            "checkpoint_sha256": sha256_of(checkpoint),
            "dataset": datalist.name,
            "cases": digest_of(items),
            "split": split,
            "spacing": value("spacing"),
            "mc_samples": network.mc_samples,
            **answering_settings(network, inferer, device=device),
            "options": options,
        },
    )
