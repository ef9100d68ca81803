"""How sure a model is, and how good its answers will be, measured on scans that it did not learn from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aps_components.configuration.bundle_workflow import CONFIGS
from aps_components.data.datalist import DATALIST
from aps_components.data.to_judge import dataset_to_judge
from aps_components.evaluation.doubt.evaluated import calibration_of, read_answers
from aps_components.evaluation.doubt.held_out import said
from aps_components.evaluation.evaluate import Evaluation
from aps_components.evaluation.trained import SPLITS, NoScansError, TrainedModel, load_trained
from aps_components.files import expanded
from aps_components.models import read_settings, save_settings, trained_cases

NONE = "none"


def refuse_unknown_scans(held_out: str) -> None:
    """Refuse what is neither a part of the dataset, nor a folder, nor :data:`NONE`.

    Raises:
        ValueError: names it.
    """
    if held_out not in (*SPLITS, NONE) and not expanded(held_out).exists():
        raise ValueError(f"held_out {held_out!r} is no folder, and none of {', '.join((*SPLITS, NONE))}")


def calibrate_doubt(
    bundle: str | Path,
    target: Path,
    *,
    dataset_dir: str | Path,
    held_out: str,
    options: Mapping[str, Any] | None,
) -> list[str]:
    """Evaluate as inference answers, and keep beside the weights what that says.

    Args:
        bundle: its folder.
        target: the weights, with their settings beside them.
        dataset_dir: of the scans it was trained on.
        held_out: ``validation`` or ``test``, or a folder with other labelled scans.
        options: other keys of the bundle's evaluation.

    Returns:
        What was found, a line each.
    """
    settings = read_settings(target)
    predictor = settings.get("inference_predictor", "average")
    with TemporaryDirectory() as work:
        read = {**settings, "label_values": {**settings, **(options or {})}.get("label_values")}
        dataset, split = _held_out_scans(held_out, dataset_dir, bundle=bundle, settings=read, work=Path(work))
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
    if not answers:
        return [f"no predicted Dice and no temperature: no scan of {dataset} has a label of every voxel and class"]
    known = bool(trained_cases(target))
    source = f"held out, {split}" if known else f"{split}, taken for held out"
    stored = calibration_of(answers, labels=model.labels, source=source)
    save_settings({**settings, **stored}, target)
    note = "nothing beside the checkpoint says which scans it learned from: whether these are new to it is unknown"
    return said(stored) + ([] if known else [f"Note: {note}"])


def _held_out_scans(
    held_out: str, dataset_dir: str | Path, *, bundle: str | Path, settings: Mapping[str, Any], work: Path
) -> tuple[Path, str]:
    """The dataset and the part of it."""
    if held_out in SPLITS:
        return Path(dataset_dir), held_out
    known = Path(bundle) / CONFIGS / DATALIST
    dataset = dataset_to_judge(
        held_out,
        known=known,
        labels=settings["labels"],
        label_values=settings.get("label_values"),
        cases=settings.get("cases"),
        work=work,
        split=SPLITS[1],
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
        label_values=model.label_values,
        largest_component=model.largest_component,
        pictures=0,
    )
