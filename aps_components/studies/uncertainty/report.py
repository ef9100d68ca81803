"""The report of ``aps uncertainty``: tables in Markdown, all figures in JSON, and plots."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aps_components.evaluation.listening import ALTERATIONS
from aps_components.evaluation.markdown import markdown_table
from aps_components.evaluation.report import json_ready
from aps_components.files import replace_text
from aps_components.studies.uncertainty.plots import plot_labels, plot_noise, plot_reliability, plot_risk
from aps_components.studies.uncertainty.scan import COVERAGES
from aps_components.studies.uncertainty.spreads import Entry, Spread, label_response, summarise
from aps_components.uncertainty import DEFINITIONS

EXPECTED = {
    "epistemic": ("little", "falls"),
    "aleatoric": ("rises", "little"),
    "total": ("rises", "falls"),
}
PREDICTOR_TITLES = {"a": "Model A", "b": "Model B", "average": "average of both"}


def write_report(folder: Path, models: Sequence[Mapping[str, Any]]) -> Path:
    """Write ``report.md``, ``report.json`` and the plots beside them.

    Args:
        folder: must exist.
        models: each with ``checkpoint``, ``labeled_count``, ``labeled_by_hand`` (None: all), ``labels``, settings and
            ``scans``; fewest labels first.

    Returns:
        ``report.md``.
    """
    names, summaries = model_names(models), [summarise(model) for model in models]
    relative = label_response(models, summaries) if models[0]["labeled_count"] != models[-1]["labeled_count"] else None
    plot_risk(folder / "risk_coverage.png", dict(zip(names, summaries, strict=True)))
    plot_reliability(folder / "reliability.png", dict(zip(names, summaries, strict=True)), PREDICTOR_TITLES)
    plot_noise(folder / "noise.png", models[0]["noises"], dict(zip(names, summaries, strict=True)))
    (folder / "labels.png").unlink(missing_ok=True)
    if relative:
        plot_labels(folder / "labels.png", [model["labeled_count"] for model in models], relative)
    content = {
        "coverages": COVERAGES.tolist(),
        "models": [
            {"name": name, **model, "summary": summary}
            for name, model, summary in zip(names, models, summaries, strict=True)
        ],
        "label_response": relative,
    }
    replace_text(folder / "report.json", json.dumps(json_ready(content), indent=1, allow_nan=False) + "\n")
    report = folder / "report.md"
    replace_text(report, markdown(models, names, summaries, relative))
    return report


def model_names(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """A short name each: the labelled scans, numbered where several have as many."""
    names = list(map(_model_name, models))
    return [
        name if names.count(name) == 1 else f"{name} ({names[: index + 1].count(name)})"
        for index, name in enumerate(names)
    ]


def _model_name(model: Mapping[str, Any]) -> str:
    count, by_hand = model["labeled_count"], model["labeled_by_hand"]
    if count is None:
        return "the model"
    return f"{count} labelled" if by_hand is None else f"{count} labelled, {by_hand} of them by hand"


def markdown(
    models: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    summaries: Sequence[Entry],
    relative: Mapping[str, Sequence[float]] | None,
) -> str:
    """The text with its tables."""
    parts = ["# What the uncertainty is worth\n", _setting(models[0]), _models(models, names, summaries)]
    parts += ["## In short\n", _in_short(models, names, summaries, relative)]
    parts += ["## Does it find the errors?\n", DETECTION_TEXT.format(band=models[0]["band_mm"])]
    parts += [_titled(name, _detection(summary)) for name, summary in zip(names, summaries, strict=True)]
    parts += ["![Risk and coverage](risk_coverage.png)\n", "## Are the probabilities calibrated?\n", CALIBRATION_TEXT]
    parts += [_calibration(names, summaries), "![Reliability](reliability.png)\n"]
    parts += ["## Does it answer to noise?\n", NOISE_TEXT.format(band=models[0]["band_mm"])]
    parts += [
        _titled(name, _noise(models[0]["noises"], summary)) for name, summary in zip(names, summaries, strict=True)
    ]
    parts += ["![Response to noise](noise.png)\n", "## Does it answer to the number of labelled scans?\n"]
    if relative:
        parts += [LABELS_TEXT, _labels(names, summaries, relative), "![Response to labels](labels.png)\n"]
    else:
        parts.append("Not measured: give checkpoints that were trained with different numbers of labelled scans.\n")
    parts += ["## Do the prompts lie in their class?\n", PROMPTS_TEXT, _prompts(names, summaries)]
    parts += ["## Does Model B listen to them, and look at the image?\n", LISTENING_TEXT, _listening(names, summaries)]
    return "\n".join(parts)


DETECTION_TEXT = """\
Errors are the voxels whose label in the answer (the bundle's predictor) is wrong. AUROC: the probability that a wrong
voxel is more uncertain than a right one; 0.5 is chance. AURC: mean error rate over all coverages, the least uncertain
voxels being answered first; E-AURC: what it exceeds that of a perfect order by, so that models with different error
rates compare. Lower is better for both. Band: voxels within {band:g} mm of a surface of the truth or of the answer;
far from the object everything is certain and right, which makes the figures over all voxels look good. Mean ± standard
deviation over the scans.
"""
CALIBRATION_TEXT = """\
Expected calibration error (ECE): mean over the voxels of |accuracy - confidence| in 15 bins of equal width of the
highest class probability. Over-confidence: mean confidence minus accuracy. Both in percentage points.
"""
NOISE_TEXT = """\
Gaussian noise is added to the normalised image; the levels are its standard deviation, in that image's unit. Means over
the voxels within {band:g} mm of the true surface, relative to the same scan without noise.
"""
LABELS_TEXT = """\
Means over the same voxels, without noise; in parentheses relative to the fewest labelled scans.
"""
PROMPTS_TEXT = """\
Points of all windows that lie in the class that they stand for; precision per scan, then mean ± standard deviation.
"""
LISTENING_TEXT = """\
Model B with the points that the model gives itself, without any, with the same points but wrong classes, and without
the image: its embedding zeroed, or the tokens in it alone. Changed: voxels of the band that it then gives another class
than with its own points. If wrong points change nothing, it ignores them; if a zeroed image changes nothing, it does
not look.
"""


def _setting(model: Mapping[str, Any]) -> str:
    return (
        f"Scans: {len(model['scans'])}, of the {model['split']} part of {model['dataset']}. Monte-Carlo samples: "
        f"{model['mc_samples']}. Measured on the network's grid ({model['precision']}, {model['device']}).\n"
    )


def _models(models: Sequence[Mapping[str, Any]], names: Sequence[str], summaries: Sequence[Entry]) -> str:
    rows = [["model", "checkpoint", "Dice %", "errors, all voxels %", "errors, band %"]]
    for model, name, summary in zip(models, names, summaries, strict=True):
        rates = [_text(summary["error_rate"][area], 100) for area in ("all", "band")]
        rows.append([name, f"`{model['checkpoint']}`", _text(summary["dice"][0], 100), *rates])
    return markdown_table(rows, names=2)


def _in_short(
    models: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    summaries: Sequence[Entry],
    relative: Mapping[str, Sequence[float]] | None,
) -> str:
    """Of the model with the most labels: detection; and what changes with noise and labels, and what should."""
    noise = models[0]["noises"][-1]
    rows = [["map", "kind", "`uncertainty_form`", "AUROC, band", f"relative at noise {noise:g}", "should"]]
    if relative:
        rows[0] += [f"relative from {names[0]} to {names[-1]}", "should"]
    for name, definition in DEFINITIONS.items():
        with_noise, with_labels = EXPECTED[definition.kind]
        row = [definition.title, definition.kind, f"`{definition.form}`" if definition.form else "-"]
        row += [_number(summaries[-1]["detection"][name]["band"]["auroc"]["mean"], 3)]
        row += [_number(summaries[-1]["response"][name][-1]["mean"], 2), with_noise]
        rows.append(row + ([_number(relative[name][-1], 2), with_labels] if relative else []))
    return markdown_table(rows, names=3)


def _detection(summary: Entry) -> str:
    rows = [["map", "AUROC, all", "AUROC, band", "AURC, all %", "E-AURC, all %", "AURC, band %", "E-AURC, band %"]]
    for name, definition in DEFINITIONS.items():
        areas = summary["detection"][name]
        row = [definition.title, *(_text(areas[area]["auroc"], 1, 3) for area in ("all", "band"))]
        row += [_text(areas[area][key], 100, 3) for area in ("all", "band") for key in ("aurc", "e_aurc")]
        rows.append(row)
    return markdown_table(rows)


def _calibration(names: Sequence[str], summaries: Sequence[Entry]) -> str:
    rows = [["model", "predictor", "ECE, all", "ECE, band", "over-confidence, band"]]
    for name, summary in zip(names, summaries, strict=True):
        for predictor, title in PREDICTOR_TITLES.items():
            areas = summary["calibration"][predictor]
            figures = [areas["all"]["ece"], areas["band"]["ece"], areas["band"]["overconfidence"]]
            rows.append([name, title, *(_text(figure, 100) for figure in figures)])
    return markdown_table(rows, names=2)


def _noise(noises: Sequence[float], summary: Entry) -> str:
    rows = [["map", "kind", "without noise", *(f"at {noise:g}" for noise in noises[1:])]]
    for name, definition in DEFINITIONS.items():
        figures = [_text(figure) for figure in summary["response"][name][1:]]
        rows.append([definition.title, definition.kind, f"{summary['mean'][name]['mean']:.3g}", *figures])
    rows.append(["Dice %", "", *(_text(figure, 100) for figure in summary["dice"])])
    return markdown_table(rows, names=2)


def _labels(names: Sequence[str], summaries: Sequence[Entry], relative: Mapping[str, Sequence[float]]) -> str:
    rows = [["map", "kind", *names]]
    for name, definition in DEFINITIONS.items():
        figures = [
            f"{summary['mean'][name]['mean']:.3g} ({_number(ratio, 2)})"
            for summary, ratio in zip(summaries, relative[name], strict=True)
        ]
        rows.append([definition.title, definition.kind, *figures])
    return markdown_table(rows, names=2)


def _prompts(names: Sequence[str], summaries: Sequence[Entry]) -> str:
    rows = [["model", "class", "points a scan", "precision %", "scans with points"]]
    for name, summary in zip(names, summaries, strict=True):
        for label, figures in summary["prompts"].items():
            precision = figures["precision"]
            rows.append(
                [name, label, _number(figures["points"]["mean"], 1), _text(precision, 100), str(precision["n"])]
            )
    return markdown_table(rows, names=2)


def _listening(names: Sequence[str], summaries: Sequence[Entry]) -> str:
    rows = [["model", "Model B with", "Dice of Model B %", "changed, band %"]]
    for name, summary in zip(names, summaries, strict=True):
        for altered, title in ALTERATIONS.items():
            figures = summary["listening"][altered]
            rows.append([name, title, *(_text(figures[key], 100) for key in ("dice", "changed"))])
    return markdown_table(rows, names=2)


def _titled(name: str, table: str) -> str:
    return f"**{name}**\n\n{table}"


def _text(figure: Spread, factor: float = 1, digits: int = 2) -> str:
    deviation = "" if math.isnan(figure["std"]) else f" ± {factor * figure['std']:.{digits}f}"
    return _number(factor * figure["mean"], digits) + deviation


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
