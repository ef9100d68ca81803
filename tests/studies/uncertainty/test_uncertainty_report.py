import json
import math

import numpy as np
import pytest

from aps_components.evaluation.listening import ALTERATIONS
from aps_components.studies.uncertainty.report import model_names, write_report
from aps_components.studies.uncertainty.spreads import label_response, spread, summarise
from aps_components.uncertainty import DEFINITIONS

LABELS = ["background", "one"]


def scan(*, auroc, mean, factor=1.5, precision=0.5):
    """Figures of one scan whose maps all have this mean, and this factor more of it with noise."""
    ranked = {"error_rate": 0.1, "auroc": auroc, "aurc": 0.02, "e_aurc": 0.01, "risk": list(np.linspace(0, 0.1, 100))}
    bins = {"voxels": [0] * 13 + [1, 3], "confidence": [0.0] * 13 + [0.9, 2.91], "correct": [0] * 13 + [1, 2]}
    return {
        "levels": [
            {"noise": noise, "dice": 0.9 - noise, "mean": dict.fromkeys(DEFINITIONS, mean * (factor if noise else 1))}
            for noise in (0.0, 0.2)
        ],
        "detection": {name: {"all": ranked, "band": ranked} for name in DEFINITIONS},
        "calibration": {
            name: {area: {"ece": 0.2, "overconfidence": 0.1, **bins} for area in ("all", "band")}
            for name in ("a", "b", "average")
        },
        "prompts": {label: {"points": 3, "precision": precision} for label in LABELS},
        "listening": {name: {"dice": 0.8, "changed": 0.1 * index} for index, name in enumerate(ALTERATIONS)},
    }


def model(count, scans, **changes):
    return {
        "checkpoint": f"{count}/model.pt",
        "labeled_count": count,
        "labeled_by_hand": None,
        "labels": LABELS,
        "dataset": "made up",
        "split": "validation",
        "mc_samples": 2,
        "precision": "fp32",
        "device": "cpu",
        "noises": [0.0, 0.2],
        "band_mm": 10.0,
        "scans": {f"scan {index}": entry for index, entry in enumerate(scans)},
    } | changes


def test_spread_leaves_out_what_is_undefined():
    found = spread([1.0, math.nan, 3.0])
    assert (found["mean"], found["std"], found["n"]) == (2.0, pytest.approx(math.sqrt(2)), 2)
    assert math.isnan(spread([])["mean"])
    assert math.isnan(spread([1.0])["std"])


def test_summary_is_the_mean_over_scans():
    summary = summarise(model(8, [scan(auroc=0.8, mean=1, factor=2), scan(auroc=0.9, mean=3, factor=1, precision=1.0)]))
    assert summary["detection"]["softmax_variance"]["band"]["auroc"]["mean"] == pytest.approx(0.85)
    assert summary["mean"]["noise_variance"]["mean"] == 2
    # The factors 2 and 1 of the scans, not that of the sums, 5 / 4.
    assert [figure["mean"] for figure in summary["response"]["noise_variance"]] == [1.0, 1.5]
    assert summary["prompts"]["one"]["precision"]["mean"] == 0.75
    assert summary["dice"][1]["mean"] == pytest.approx(0.7)
    (low, high) = summary["calibration"]["average"]["band"]["bins"]
    assert (low["share"], high["share"]) == (0.25, 0.75)
    assert (high["confidence"], high["accuracy"]) == (pytest.approx(0.97), pytest.approx(2 / 3))


def test_a_map_that_is_zero_has_no_response():
    summary = summarise(model(8, [scan(auroc=0.8, mean=0)]))
    assert all(math.isnan(figure["mean"]) for figure in summary["response"]["softmax_variance"])


def test_labels_are_compared_with_the_mean_of_the_fewest():
    models = [model(4, [scan(auroc=0.5, mean=mean)]) for mean in (1, 3)] + [model(16, [scan(auroc=0.5, mean=1)])]
    relative = label_response(models, [summarise(entry) for entry in models])
    assert relative["mutual_information"] == [0.5, 1.5, 0.5]


def test_names_are_short_and_differ():
    assert model_names([model(4, []), model(8, []), model(8, [])]) == ["4 labelled", "8 labelled (1)", "8 labelled (2)"]
    assert model_names([model(None, [])]) == ["the model"]
    assert model_names([model(70, [], labeled_by_hand=8)]) == ["70 labelled, 8 of them by hand"]


def test_report_of_several_models(tmp_path):
    models = [model(4, [scan(auroc=0.75, mean=2)] * 2), model(16, [scan(auroc=math.nan, mean=1)] * 2)]
    report = write_report(tmp_path, models)
    text = report.read_text()
    assert "| variance of the softmax | 0.750 ± 0.000 | 0.750 ± 0.000 | 2.000 ± 0.000 |" in text
    assert "| predicted noise variance | aleatoric | 2 (1.00) | 1 (0.50) |" in text
    assert "| variance of the softmax | epistemic | `variance` | - | 1.50 | little | 0.50 | falls |" in text
    assert "| 16 labelled | one | 3.0 | 50.00 ± 0.00 | 2 |" in text
    assert "| Dice % |  | 90.00 ± 0.00 | 70.00 ± 0.00 |" in text
    for name in ("risk_coverage", "reliability", "noise", "labels"):
        assert f"({name}.png)" in text
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    content = json.loads((tmp_path / "report.json").read_text())
    assert [entry["name"] for entry in content["models"]] == ["4 labelled", "16 labelled"]
    assert content["models"][1]["summary"]["detection"]["softmax_variance"]["band"]["auroc"]["mean"] is None


def test_report_of_one_model_says_what_is_missing(tmp_path):
    (tmp_path / "labels.png").touch()
    text = write_report(tmp_path, [model(None, [scan(auroc=0.75, mean=2)])]).read_text()
    assert "give checkpoints that were trained with different numbers of labelled scans" in text
    assert not (tmp_path / "labels.png").exists()
