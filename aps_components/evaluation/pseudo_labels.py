"""``aps pseudo-label``: what several trained models agree on becomes the labels of the unlabelled scans.

A second round of self-training. In training a teacher labels patches anew in every iteration; here an ensemble labels
whole scans once, and one model learns from its labels (Xie et al. 2020, Self-training with Noisy Student,
arXiv:1911.04252), so that one model answers nearly as well as all of them together (Hinton et al. 2015, Distilling the
Knowledge in a Neural Network, arXiv:1503.02531). Volumes are set on the labelled scans, as ``aps calibrate`` does it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from aps_components.data import DataError, LoadVolumed, case_name
from aps_components.data.datalist import (
    DATALIST,
    LABEL_BY,
    MODELS,
    Datalist,
    files_of,
    refuse_same_names,
    relative_item,
    scans_in,
)
from aps_components.data.identity import seen_items
from aps_components.data.label_values import file_values, map_values
from aps_components.data.marks import Mark, maker_hash, mark_of, read_mark, scan_hash
from aps_components.data.nifti import read_header, read_scan, write_like
from aps_components.data.partial import label_item
from aps_components.evaluation.doubt.several_models import (
    ByClass,
    agreement_table,
    least_agreed_first,
    mean_of,
    pairwise_agreement,
)
from aps_components.evaluation.offsets import MOST_VALUES, fit_offsets, label_and_undrawn, of_kept_pieces, thinned
from aps_components.evaluation.records import Records, results_folder
from aps_components.evaluation.trained import TrainedModel, load_trained
from aps_components.files import ensure_writable, replace_text
from aps_components.inference import LabelMapd, inverted
from aps_components.label_map import likeliest_class, log_probabilities
from aps_components.models import trained_cases, trained_setting
from aps_components.models.decision import Decision
from aps_components.plain_json import read_json

ANSWER = "a"  # an ensemble has one answer; its offsets are held where Model A's are
LABELS, MADE_BY, AGREEMENT = "labels", "made_by.json", "agreement.csv"
AGREED = "agreement.jsonl"  # what the table is made of in the end
DEVICE = "device"  # a labelling that was killed goes on with another one
LEAST_AGREED = 5  # scans that are named


def pseudo_label(
    *,
    bundle: str | Path,
    dataset_dir: str | Path,
    checkpoints: Sequence[str | Path],
    target: str | Path,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Make a dataset whose unlabelled training scans have the labels of an ensemble.

    ``target`` receives ``labels``, a file for each of those scans on its own grid, and ``datalist.json``: the labelled
    scans first, then these, then validation and test scans as they are. Images, and labels by hand, stay where they
    are. Killed, it goes on with the scans that are left. Of several models it also receives ``agreement.csv``: how far
    they agree on each scan, the worst first.

    Args:
        bundle: its folder.
        dataset_dir: of the scans that the models were trained on.
        checkpoints: ``model.pt`` of trainings with their settings beside them, on the same labelled scans or on folds
            of them; voxel sizes and patches may differ. The volumes of a labelled scan are set by those models that did
            not learn from it, where there are some.
        target: a folder.
        options: other keys of the bundle's evaluation to change. Without a ``predictor`` each model uses the one
            that its inference uses.

    Returns:
        What was found, and what to do with it.

    Raises:
        ValueError: no checkpoint, no unlabelled scan, trainings on other scans, or a folder that is the dataset's or
            holds labels or a datalist of others.
    """
    _refuse_target(Path(target), Path(dataset_dir))
    if not checkpoints:
        raise ValueError("no checkpoint to label the scans with: give the model.pt of one or more trainings")
    models = [
        load_trained(
            bundle,
            dataset_dir=dataset_dir,
            checkpoint=checkpoint,
            seen=True,
            options={"predictor": trained_setting(checkpoint, "inference_predictor", "average"), **(options or {})},
        )
        for checkpoint in tqdm(checkpoints, desc="loading", unit="model")
    ]
    datalist = _common_datalist(models)
    refuse_same_names(datalist.unlabeled)
    with results_folder(target) as folder:
        ensure_writable(folder / LABELS)
        maker = maker_hash(_refuse_labels_of_others(folder, models))
        decision, volumes = _decision(models, datalist)
        agreements = Records(folder / AGREED, settings={"maker": maker}) if len(models) > 1 else None
        for item in tqdm(datalist.unlabeled, desc="labelling", unit="scan"):
            mark = mark_of(scan=scan_hash(files_of(item["image"])), maker=maker)
            if not _is_labelled(file := _label_file(folder, item), mark):
                label_map, agreement = _label_map(models, item, decision)
                if agreements is not None:  # before the label: what was killed has lost none
                    agreements.add({"dice": agreement}, scan=case_name(item))
                _save(file, label_map, item=item, model=models[0], mark=mark)
        _write_datalist(folder, datalist)
        doubtful = [] if agreements is None else _rank(agreements, folder / AGREEMENT, datalist)
    count = len(datalist.labeled) + len(datalist.unlabeled)
    return "\n".join(
        [
            f"{len(datalist.unlabeled)} scans labelled by {len(models)} model(s)",
            *volumes,
            *doubtful,
            f"written: {folder / 'datalist.json'}",
            f"train on it with --dataset_dir {shlex.quote(str(folder))} --labeled_count {count} --labeled_batch 4 "
            "--unlabeled_batch 0",
        ]
    )


def labeled_by(target: str | Path) -> list[str]:
    """SHA-256 of the models that labelled the scans of a folder of :func:`pseudo_label`, in their order."""
    models = read_json(file := Path(target) / MADE_BY)
    entries = models if isinstance(models, list) else [None]
    found = [entry.get("checkpoint_sha256") if isinstance(entry, dict) else None for entry in entries]
    hashes = [one for one in found if isinstance(one, str)]
    if len(hashes) < len(found):
        raise ValueError(f"{file}: names no models by their checkpoint_sha256; delete {target} to label the scans anew")
    return hashes


def _common_datalist(models: Sequence[TrainedModel]) -> Datalist:
    first = models[0]
    for model in models[1:]:
        if any(getattr(model.datalist, part) != getattr(first.datalist, part) for part in ("labeled", "validation")):
            raise ValueError(
                f"{model.checkpoint} and {first.checkpoint} were trained on other labelled or validation scans: take "
                "models of the same labeled_count and validation_count"
            )
    if not first.datalist.unlabeled:
        raise ValueError(f"the datalist {first.datalist.name!r} has no unlabelled training scan to label")
    return first.datalist


def _refuse_target(folder: Path, dataset: Path) -> None:
    """A datalist that is not of this command would be lost, and labels lying there be taken for the models'."""
    if folder.exists() and dataset.exists() and folder.samefile(dataset):
        raise ValueError(f"--target {folder} is the dataset's own folder: give another one")
    if (folder / MADE_BY).is_file():
        return
    there = [folder / DATALIST, *scans_in(folder / LABELS)]
    if found := [file for file in there if file.exists()]:
        raise ValueError(f"{found[0]} is there, and aps pseudo-label did not make it: give another --target")


def _is_labelled(file: Path, mark: Mark) -> bool:
    """By these models, this very scan, and whole."""
    try:
        if not file.is_file() or read_mark(file) != mark:
            return False
        read_scan(file)
    except DataError:
        return False
    return True


def _refuse_labels_of_others(folder: Path, models: Sequence[TrainedModel]) -> str:
    """Some scans labelled by one ensemble and some by another are no dataset; what made them is given back."""
    made_by = json.dumps([_made_by(model) for model in models], indent=1, default=str) + "\n"
    note = folder / MADE_BY
    if note.is_file() and note.read_text(encoding="utf-8") != made_by:
        raise ValueError(f"{folder} holds labels of other models or settings ({note}): give another --target")
    replace_text(note, made_by)
    return made_by


def _made_by(model: TrainedModel) -> dict[str, Any]:
    """What a model's labels depend on: not the device, nor the precision that ``auto`` means there."""
    settings = {key: value for key, value in model.settings.items() if key != DEVICE}
    options = {key: value for key, value in model.settings["options"].items() if key != DEVICE}
    return {**settings, "precision": model.inferer.precision, "options": options}


def _decision(models: Sequence[TrainedModel], datalist: Datalist) -> tuple[Decision, list[str]]:
    """Offsets with which the ensemble finds the volumes of the labelled scans, and what they are."""
    classes = models[0].network.num_classes
    load_label = LoadVolumed("label", num_classes=classes, label_values=models[0].label_values)
    share = MOST_VALUES / classes / len(datalist.labeled)
    kept: list[tuple[Tensor, ...]] = []
    for item in tqdm(datalist.labeled, desc="calibrating", unit="scan"):
        truth = label_and_undrawn(load_label(label_item(item)), classes=classes)
        answer = _log_probabilities(_unaware(models, item), item)[None]
        answer = of_kept_pieces(answer, models[0].largest_component)
        kept.append(tuple(thinned(part, share=share) for part in (answer, truth["label"], truth["undrawn"])))
    decision = Decision(classes)
    logits, label, undrawn = (torch.cat(parts, dim=-1) for parts in zip(*kept, strict=True))
    return decision, fit_offsets(decision, logits, label, ANSWER, labels=datalist.labels, undrawn=undrawn)


def _unaware(models: Sequence[TrainedModel], item: Mapping[str, Any]) -> Sequence[TrainedModel]:
    """The models that did not learn from a scan, as of folds; all of them, where there is none."""
    return [model for model in models if not seen_items([dict(item)], trained_cases(model.checkpoint))] or models


def _label_map(
    models: Sequence[TrainedModel], item: Mapping[str, Any], decision: Decision
) -> tuple[np.ndarray, ByClass]:
    """What the models say together, and how far they agree; of one alone nothing."""
    answers: list[Tensor] | None = [] if len(models) > 1 else None
    scores = decision(_log_probabilities(models, item, answers)[None], ANSWER)[0]
    to_label_map = LabelMapd("pred", largest_component=models[0].largest_component)
    agreement = pairwise_agreement(answers, classes=len(scores)) if answers else []
    return to_label_map({"pred": scores})["pred"][0].numpy(), agreement


@torch.inference_mode()
def _log_probabilities(
    models: Sequence[TrainedModel], item: Mapping[str, Any], answers: list[Tensor] | None = None
) -> Tensor:
    """Of the models' mean, [C, D, H, W] on the scan's own grid; ``answers`` receives each model's label map."""
    total: Tensor | None = None
    for model in models:
        data = model.image_preprocessing({"image": item["image"]})
        answer = model.inferer(data["image"].as_tensor()[None].to(model.device), model.network)[0].cpu()
        to_own_grid = inverted(model.image_preprocessing, ("pred",))
        own = to_own_grid({"pred": answer, "image": data["image"]})["pred"].as_tensor()
        if answers is not None:
            answers.append(likeliest_class(own, dim=0)[0])
        total = own if total is None else total + own
    assert total is not None
    return log_probabilities(total / len(models))


def _rank(agreements: Records, file: Path, datalist: Datalist) -> list[str]:
    """Write the table of all scans, and name the first ones of it."""
    by_scan = {key["scan"]: record["dice"] for key, record in agreements.all()}
    ranked = least_agreed_first(by_scan)
    classes = [name for index, name in sorted(datalist.labels.items()) if index]
    replace_text(file, agreement_table(ranked, classes))
    means = {scan: mean_of(values) for scan, values in ranked.items()}
    named = [f"{scan} ({mean:.2f})" for scan, mean in means.items() if mean is not None][:LEAST_AGREED]
    return [f"least agreed on, and worth a look or a label by hand: {', '.join(named)} (all: {file})"] if named else []


def _save(file: Path, label_map: np.ndarray, *, item: Mapping[str, Any], model: TrainedModel, mark: Mark) -> None:
    """With the numbers that the dataset's own label files have."""
    values = file_values(model.label_values, model.labels)
    header = read_header(files_of(item["image"])[0])
    write_like(file, map_values(label_map, values), header, description=mark.text)


def _label_file(folder: Path, item: Mapping[str, Any]) -> Path:
    return folder / LABELS / f"{case_name(item)}.nii.gz"


def _write_datalist(folder: Path, datalist: Datalist) -> None:
    def entry(item: Mapping[str, Any]) -> dict[str, Any]:
        return relative_item(item, folder)

    def labelled(item: Mapping[str, Any]) -> dict[str, Any]:
        return {**entry({**item, "label": str(_label_file(folder, item))}), LABEL_BY: MODELS}

    content = {
        "name": datalist.name,
        "labels": {str(index): name for index, name in datalist.labels.items()},
        "training": [*map(entry, datalist.labeled), *map(labelled, datalist.unlabeled)],
        "validation": [entry(item) for item in datalist.validation],
        "test": [entry(item) for item in datalist.test],
    }
    replace_text(folder / DATALIST, json.dumps(content, indent=1) + "\n")
