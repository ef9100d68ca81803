"""``aps uncertainty``: models over scans, and a report of what their uncertainty is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aps_components.data import LoadVolumed, case_name
from aps_components.evaluation.listening import ALTERATIONS
from aps_components.evaluation.records import Records, results_folder
from aps_components.evaluation.trained import TrainedModel, load_trained
from aps_components.evaluation.truth import whole_labels
from aps_components.models import settings_file, trained_setting
from aps_components.options import SEED, number, optional, whole
from aps_components.studies.uncertainty.report import write_report
from aps_components.studies.uncertainty.scan import measure_scan
from aps_components.uncertainty import DEFINITIONS

NOISES = (0.0, 0.1, 0.2, 0.4)
BAND_MM = 10.0


def check_uncertainty(
    *,
    bundle: str | Path,
    dataset_dir: str | Path,
    checkpoints: Sequence[str | Path],
    out: str | Path,
    split: str = "validation",
    noises: Sequence[float] = NOISES,
    band_mm: float = BAND_MM,
    cases: int | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Measure, and write ``report.md``, ``report.json`` and plots; what an earlier call measured is not repeated.

    Args:
        bundle: its folder.
        dataset_dir: of the scans.
        checkpoints: one, or several that were trained with different numbers of labelled scans.
        out: of the report.
        split: ``validation`` or ``test``.
        noises: standard deviations of the noise added to the normalised image; 0 is always measured.
        band_mm: reach of the band around a surface.
        cases: number of scans, from the first on; all by default.
        seed: of the noise.
        options: other keys of the bundle's evaluation to change.

    Returns:
        The report in Markdown.

    Raises:
        ValueError: a value or checkpoint that does not fit, or ``out`` holds figures of other settings.
    """
    noises = sorted({0.0, *(number(least=0)("noises", noise) for noise in noises)})
    band_mm, seed = number(above=0)("band_mm", band_mm), SEED("seed", seed)
    cases = optional(whole(least=1))("cases", cases)
    if not checkpoints or len(set(map(str, checkpoints))) < len(checkpoints):
        raise ValueError(f"checkpoints {[str(path) for path in checkpoints]}: give one or more, each once")
    with results_folder(out) as folder:
        counts = {
            str(checkpoint): _labeled_count(Path(checkpoint), alone=len(checkpoints) == 1) for checkpoint in checkpoints
        }
        measured: list[dict[str, Any]] = []
        for checkpoint in sorted(counts, key=lambda path: counts[path] or 0):
            model = load_trained(bundle, dataset_dir=dataset_dir, checkpoint=checkpoint, split=split, options=options)
            settings = {**model.settings, "band_mm": band_mm, "seed": seed, "noises": noises}
            load = LoadVolumed("label", num_classes=len(model.labels), label_values=model.label_values)
            scans = _measured(model, whole_labels(model.items, load)[:cases], settings, folder)
            if measured and list(scans) != list(measured[0]["scans"]):
                raise ValueError(
                    f"{checkpoint} and {measured[0]['checkpoint']} kept different scans for validation, so their "
                    "figures do not compare: train both with the same validation_count"
                )
            entry = {
                "checkpoint": checkpoint,
                "labeled_count": counts[checkpoint],
                "labeled_by_hand": trained_setting(checkpoint, "labeled_by_hand", None),
                "labels": list(model.labels.values()),
            }
            measured.append({**entry, **settings, "scans": scans})
        return write_report(folder, measured)


def _labeled_count(checkpoint: Path, *, alone: bool) -> int | None:
    """Scans with a label that it was trained on, from the settings beside it."""
    count = trained_setting(checkpoint, "labeled_count", None)
    if count is None and not alone:
        raise ValueError(
            f"nothing says how many labelled scans {checkpoint} was trained with: "
            f'put {{"labeled_count": N}} into {settings_file(checkpoint)}'
        )
    return count


def _measured(
    model: TrainedModel, items: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], folder: Path
) -> dict[str, dict[str, Any]]:
    """The figures of each scan by its name, those that are in the folder already not anew."""
    file = folder / f"model_{settings['checkpoint_sha256'][:12]}.jsonl"
    records = Records(file, settings={**settings, "maps": list(DEFINITIONS), "prompts": list(ALTERATIONS)})
    scans = {}
    for index, item in enumerate(tqdm(items, desc=str(model.checkpoint), unit="scan")):
        name = case_name(item)
        scans[name] = records.find(case=name) or records.add(
            measure_scan(
                item,
                model,
                noises=settings["noises"],
                band_mm=settings["band_mm"],
                seed=settings["seed"] + index,
            ),
            case=name,
        )
    return scans
