"""``aps benchmark``: Dice against seconds of sliding windows, all on the same scans."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from aps_components.data import LoadVolumed, case_name
from aps_components.evaluation.records import Records, results_folder
from aps_components.evaluation.trained import TrainedModel, load_trained
from aps_components.evaluation.truth import Truth, whole_labels
from aps_components.inference import InvertToLabelMapd, PromptedSlidingWindowInferer
from aps_components.options import SEED, optional, whole
from aps_components.studies.speed.settings import REFERENCE, Setting, window_count
from aps_components.studies.speed.table import Line, write_table

Case = dict[str, Any]


def benchmark(
    *,
    bundle: str | Path,
    dataset_dir: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    settings: Sequence[Setting],
    split: str = "validation",
    cases: int | None = None,
    reference_cases: int = 2,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Measure every setting on every scan, and write ``table.md``, ``table.csv`` and ``speed.png``.

    On each scan the settings run in a new order, so that a machine that is busy for a while harms none of them alone.
    What an earlier call measured is not repeated.

    Args:
        bundle: its folder.
        dataset_dir: of the scans.
        checkpoint: ``model.pt`` of a training.
        out: of the tables.
        settings: to compare; the reference is added.
        split: ``validation`` or ``test``.
        cases: number of scans, from the first on; all by default.
        reference_cases: number of them on which the reference is measured.
        seed: of the orders.
        options: other keys of the bundle's evaluation to change.

    Returns:
        The table in Markdown.

    Raises:
        ValueError: a value or checkpoint that does not fit, or ``out`` holds figures of other settings.
    """
    cases = optional(whole(least=1))("cases", cases)
    reference_cases, seed = whole(least=0)("reference_cases", reference_cases), SEED("seed", seed)
    with results_folder(out) as folder:
        model = load_trained(bundle, dataset_dir=dataset_dir, checkpoint=checkpoint, split=split, options=options)
        threads = torch.get_num_threads() if model.device.type == "cpu" else None
        records = Records(folder / "scans.jsonl", settings={**model.settings, "threads": threads})
        everything = list(dict.fromkeys([*settings, REFERENCE]))
        names = [case_name(item) for item in whole_labels(model.items, _label_loader(model))[:cases]]
        scans = {setting: names[:reference_cases] if setting.is_reference else names for setting in everything}
        jobs = {
            name: [
                setting
                for setting in everything
                if name in scans[setting] and not records.find(case=name, **setting.key)
            ]
            for name in names
        }
        _measure(model, jobs, records, seed=seed)
        lines = [
            Line(setting=setting, scans={name: records.find(case=name, **setting.key) or {} for name in scans[setting]})
            for setting in everything
            if scans[setting]
        ]
        return write_table(folder, lines, context={**model.settings, "threads": threads, "torch": torch.__version__})


def _measure(model: TrainedModel, jobs: Mapping[str, Sequence[Setting]], records: Records, *, seed: int) -> None:
    """Run the jobs of each scan in an order of its own."""
    trained, total = model.network.predictor, sum(map(len, jobs.values()))
    warm = False
    with tqdm(total=total, unit="run", disable=not total) as bar:
        for index, item in enumerate(model.items):
            order = list(jobs.get(case_name(item), ()))
            if not order:
                continue
            random.Random(f"{seed} {index}").shuffle(order)
            case = _loaded(model, item)
            if not warm:
                bar.write(_estimate(model, jobs, case))
                warm = True
            for setting in order:
                bar.set_description(f"{setting.predictor}, {setting.window}")
                records.add(_one(model, case, setting), case=case_name(item), **setting.key)
                bar.update()
    model.network.predictor = trained


def _loaded(model: TrainedModel, item: Mapping[str, Any]) -> Case:
    """The image for the network, and the truth on the scan's own grid."""
    data = model.image_preprocessing({"image": item["image"]})
    truth = Truth.load(item, _label_loader(model)).label_map
    return {"data": data, "image": data["image"].as_tensor()[None].to(model.device), "truth": truth}


def _label_loader(model: TrainedModel) -> LoadVolumed:
    return LoadVolumed("label", num_classes=len(model.labels), label_values=model.label_values)


def _one(model: TrainedModel, case: Case, setting: Setting) -> dict[str, Any]:
    """Segment a scan; ``seconds`` are those of the window alone, without loading and the way back to the own grid.

    Seconds and Dice are NaN where a GPU has not enough memory for the setting.
    """
    size = case["image"].shape[2:]
    inferer = setting.inferer(model.inferer, size, stride=model.network.stride)
    record = {"windows": window_count(size, inferer), "seconds": math.nan, "dice": math.nan}
    try:
        seconds, probabilities = timed(case["image"], model, inferer, predictor=setting.predictor)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return record
    return record | {"seconds": seconds, "dice": _dice(probabilities[0].cpu(), case, model)}


@torch.inference_mode()
def timed(
    image: Tensor, model: TrainedModel, inferer: PromptedSlidingWindowInferer, *, predictor: str
) -> tuple[float, Tensor]:
    """Seconds for a volume [1, in_channels, D, H, W], and its probabilities [1, C, D, H, W]."""
    model.network.predictor = predictor  # type: ignore[assignment]
    _finish(model.device)
    start = time.perf_counter()
    probabilities = inferer(image, model.network)
    _finish(model.device)
    return time.perf_counter() - start, probabilities


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _dice(probabilities: Tensor, case: Case, model: TrainedModel) -> float:
    """On the scan's own grid, as the bundle's evaluation measures it."""
    invert = InvertToLabelMapd("pred", model.image_preprocessing)
    answer = np.asarray(invert({"pred": probabilities, "image": case["data"]["image"]})["pred"][0])
    return model.mean_dice(answer, case["truth"])


def _estimate(model: TrainedModel, jobs: Mapping[str, Sequence[Setting]], case: Case) -> str:
    """Warm up with a window of each predictor, time another one, and say how long everything will take."""
    size, settings = case["image"].shape[2:], [setting for wanted in jobs.values() for setting in wanted]
    window = torch.zeros(1, case["image"].shape[1], *model.inferer.roi_size, device=model.device)
    seconds = {
        name: min(timed(window, model, model.inferer, predictor=name)[0] for _ in range(2))
        for name in sorted({setting.predictor for setting in settings})
    }
    windows = {setting: _windows(setting, model, size) for setting in set(settings)}
    minutes = [windows[setting] * seconds[setting.predictor] / 60 for setting in settings]
    text = "; ".join(f"{name}: {value:.2f} s a window" for name, value in seconds.items())
    text += f". About {sum(minutes):.1f} minutes for {len(settings)} runs"
    if REFERENCE in windows:
        share = sum(minute for minute, setting in zip(minutes, settings, strict=True) if setting.is_reference)
        text += f", {share:.1f} of them for the reference: {windows[REFERENCE]:.0f} windows a scan"
    return text


def _windows(setting: Setting, model: TrainedModel, size: Sequence[int]) -> float:
    """In windows of the trained size, each seen once."""
    inferer = setting.inferer(model.inferer, size, stride=model.network.stride)
    return (
        setting.images
        * window_count(size, inferer)
        * float(np.prod(inferer.roi_size) / np.prod(model.inferer.roi_size))
    )
