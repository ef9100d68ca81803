"""``aps clicks``: scans with labels, clicked one after the other, and a report."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aps_components.data import DataError, case_name, check_cases, inference_items
from aps_components.data.datalist import files_of, scans_in
from aps_components.data.identity import digest_of
from aps_components.data.partial import IGNORE
from aps_components.evaluation.clicks.plot import plot_clicks
from aps_components.evaluation.clicks.scan import Annotator, listening
from aps_components.evaluation.clicks.table import markdown, per_scan_csv, summarise
from aps_components.evaluation.metrics import foreground_regions
from aps_components.evaluation.records import Records, results_folder
from aps_components.evaluation.report import json_ready
from aps_components.evaluation.seen import unseen_items
from aps_components.evaluation.trained import answering_settings, load_trained
from aps_components.files import expanded, replace_text, sha256_of
from aps_components.interactive import LoadedModel, Predictor, load_model
from aps_components.interactive.model import untaught
from aps_components.models import read_settings
from aps_components.options import number, optional, whole

MOST_CLICKS = 1000  # of a scan; whoever needs more draws it anew
LENGTH = number(above=0)
Item = dict[str, Any]


def measure_clicks(
    *,
    checkpoint: str | Path,
    out: str | Path,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    bundle: str | Path | None = None,
    dataset_dir: str | Path | None = None,
    split: str = "validation",
    clicks: int = 10,
    tolerance_mm: float = 2.0,
    cases: int | None = None,
    thorough: bool = False,
    device: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure, and write ``clicks.json``, ``clicks.md``, ``clicks.csv`` and ``clicks.png``.

    What an earlier call measured is not repeated.

    Args:
        checkpoint: ``model.pt`` of a training.
        out: of the files.
        images: scans, a file or a folder; with ``labels``.
        labels: a file or a folder of label files, named as the scans are.
        bundle: folder of the bundle whose datalist says which scans belong to ``split``; with ``dataset_dir``.
        dataset_dir: of the scans.
        split: ``validation`` or ``test``.
        clicks: the most for each scan.
        tolerance_mm: of the surface Dice.
        cases: number of scans, from the first on; all by default.
        thorough: see :class:`Predictor`.
        device: as :func:`load_model` takes it.
        options: other keys of ``model.json``, or with ``dataset_dir`` of the bundle's evaluation.

    Returns:
        The figures, as in ``clicks.json``.

    Raises:
        ValueError: a value, a checkpoint or a dataset that does not fit, or ``out`` holds figures of other settings.
    """
    clicks, tolerance_mm = whole(least=1, most=MOST_CLICKS)("clicks", clicks), LENGTH("tolerance_mm", tolerance_mm)
    cases = optional(whole(least=1))("cases", cases)
    if (images is None) != (labels is None) or (images is None) == (dataset_dir is None):
        raise ValueError("give --images and --labels, or --dataset_dir")
    more: dict[str, Any] = {}
    read: dict[str, Any] = {}
    if dataset_dir is not None and bundle is not None:
        options = {**(options or {}), **({} if device is None else {"device": device})}
        model, items, more = _of_dataset(bundle, dataset_dir, checkpoint, split=split, options=options)
    elif images is not None and labels is not None:
        model = load_model(checkpoint, device, settings=options)
        more = {**read_settings(model.checkpoint), **(options or {})}
        items = labelled_items(
            images, labels, modalities=model.modalities, in_channels=model.in_channels, ignore=more.get(IGNORE)
        )
        unseen_items(items, checkpoint=model.checkpoint, split="given", mend="Leave them out")
        read = {key: more[key] for key in ("label_values", "regions") if more.get(key)}
    else:
        raise ValueError("--dataset_dir needs --bundle, whose datalist says which scans are for validation")
    model.require_prompted()
    predictor, regions = Predictor(model, thorough=thorough), foreground_regions(model.labels, more.get("regions"))
    annotator = Annotator(
        predictor=predictor,
        num_classes=len(model.labels),
        regions=regions,
        clicks=clicks,
        tolerance_mm=tolerance_mm,
        label_values=more.get("label_values"),
        listening=functools.partial(listening, predictor=predictor, regions=regions),
    )
    settings = {
        **read,
        "checkpoint_sha256": sha256_of(model.checkpoint),
        "cases": digest_of(items),
        "thorough": thorough,
        "largest_component": model.largest_component,
        **answering_settings(model.network, model.inferer, device=model.device),
        "options": dict(options or {}),
    }
    return report_clicks(annotator, items[:cases], out, settings=settings, title=model.checkpoint.name)


def report_clicks(
    annotator: Annotator, items: Sequence[Item], out: str | Path, *, settings: Mapping[str, Any], title: str
) -> dict[str, Any]:
    """Have scans corrected, and write ``clicks.json``, ``clicks.md``, ``clicks.csv`` and ``clicks.png``.

    Args:
        annotator: who clicks.
        items: ``image`` and ``label`` files.
        out: of the files.
        settings: what else the figures depend on, of JSON's types.
        title: of whose answers.

    Returns:
        The figures, as in ``clicks.json``.

    Raises:
        ValueError: the folder holds figures of other settings.
    """
    depends = {"clicks": annotator.clicks, "tolerance_mm": annotator.tolerance_mm, **settings}
    with results_folder(out) as folder:
        scans = _measured(annotator, items, Records(folder / "scans.jsonl", settings=depends))
        figures = {**summarise(list(scans.values()), clicks=annotator.clicks), "settings": depends}
        _write(folder, figures, scans, title=title, annotator=annotator)
    return figures


def labelled_items(
    images: str | Path,
    labels: str | Path,
    *,
    modalities: Sequence[str] | None,
    in_channels: int,
    ignore: int | None = None,
) -> list[Item]:
    """Scans with the label files that are named as they are: ``a.nii.gz`` and ``a.nii.gz``.

    Args:
        images, labels: see :func:`measure_clicks`.
        modalities: the files of a scan, in channel order; None where a scan is a file.
        in_channels: of a scan.
        ignore: value in the label files of a voxel that nobody labelled.

    Raises:
        DataError: a scan has no label, or a file cannot be used.
    """
    items: list[Item] = inference_items(image=images, modalities=modalities)
    place = expanded(labels)
    if not place.exists():
        raise DataError(f"{place}: no such file or folder; check --labels")
    files = {case_name({"image": str(file)}): str(file) for file in ([place] if place.is_file() else scans_in(place))}
    if place.is_file() and len(items) == 1:
        files = {case_name(items[0]): str(place)}
    for item in items:
        if case_name(item) not in files:
            raise DataError(f"{files_of(item['image'])[0]}: no label {case_name(item)}.nii.gz in {place}; put it there")
    said = {} if ignore is None else {IGNORE: ignore}
    found = [{**item, "label": files[case_name(item)], **said} for item in items]
    return check_cases(found, in_channels=in_channels)


def _of_dataset(
    bundle: str | Path, dataset_dir: str | Path, checkpoint: str | Path, *, split: str, options: Any
) -> tuple[LoadedModel, list[Item], dict[str, Any]]:
    """The model as its bundle evaluates it, its scans, and how their labels are to be read."""
    trained = load_trained(bundle, dataset_dir=dataset_dir, checkpoint=checkpoint, split=split, options=options)
    settings = read_settings(checkpoint)
    if "predictor" not in (options or {}):
        trained.network.predictor = settings.get("inference_predictor", trained.network.predictor)
    model = LoadedModel(
        checkpoint=Path(checkpoint),
        network=trained.network,
        inferer=trained.inferer,
        preprocessing=trained.image_preprocessing,
        labels=trained.labels,
        in_channels=trained.in_channels,
        largest_component=trained.largest_component,
        untaught=untaught(settings),
    )
    return model, trained.items, {"regions": trained.regions, "label_values": trained.label_values}


def _measured(annotator: Annotator, items: Sequence[Item], records: Records) -> dict[str, dict[str, Any]]:
    """The record of each scan by its name."""
    scans = {}
    for item in tqdm(items, unit="scan"):
        name = case_name(item)
        scans[name] = records.find(scan=name) or records.add(annotator.correct(item), scan=name)
    return scans


def _write(
    folder: Path,
    figures: Mapping[str, Any],
    scans: Mapping[str, dict[str, Any]],
    *,
    title: str,
    annotator: Annotator,
) -> None:
    replace_text(folder / "clicks.json", json.dumps(json_ready(figures), indent=1) + "\n")
    replace_text(folder / "clicks.md", markdown(figures, title=title, tolerance_mm=annotator.tolerance_mm))
    replace_text(folder / "clicks.csv", per_scan_csv(scans, clicks=annotator.clicks))
    plot_clicks(folder / "clicks.png", scans, clicks=annotator.clicks, tolerance_mm=annotator.tolerance_mm)
