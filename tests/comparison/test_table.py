import json
import math
from pathlib import Path

import pytest

from aps_components.comparison.methods import load_methods
from aps_components.comparison.runs import CHECKPOINTS, Run
from aps_components.comparison.table import comma_separated, lines_of, markdown, plot

METHODS = load_methods()


def finished_run(folder: Path, name: str, seed: int, dice: dict[str, float], hd95: float | None = 4.0) -> Run:
    """A run whose files are there: 3 epochs of 50 iterations, and the Dice of each checkpoint for predictor a."""
    run = Run(
        method=METHODS[name],
        seed=seed,
        folder=folder / name / str(seed),
        bundle=Path("bundles/la"),
        options={},
        epochs=3,
        split="validation",
    )
    for checkpoint in CHECKPOINTS:
        file = run.metrics_file(checkpoint)
        file.parent.mkdir(parents=True)
        summary = [
            entry(predictor, variant, group, dice[checkpoint] - 0.1 * (predictor == "b"), hd95)
            for predictor in ("a", "b")
            for variant in ("raw", "largest_component")
            for group in ("one", "two", "all")
        ]
        file.write_text(json.dumps({"summary": summary}))
    (run.folder / "training").mkdir()
    lines = [{"epoch": n, "iteration": 50 * n, "seconds_per_iteration": 0.6 * n} for n in (1, 2, 3)]
    (run.folder / "training" / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def entry(predictor, variant, group, dice, hd95):
    dice = dice if group == "all" and variant == "raw" else 0.0
    means = {"dice": dice, "jaccard": dice / 2, "hd95_mm": hd95, "asd_mm": 1.0}
    return {"predictor": predictor, "variant": variant, "class": group} | {
        name: {"mean": value} for name, value in means.items()
    }


@pytest.fixture
def runs(tmp_path):
    return {
        ("bcp", 0): finished_run(tmp_path, "bcp", 0, {"ema": 0.80, "plain": 0.70}),
        ("bcp", 1): finished_run(tmp_path, "bcp", 1, {"ema": 0.84, "plain": 0.70}, hd95=None),
        ("ours", 0): finished_run(tmp_path, "ours", 0, {"ema": 0.90, "plain": 0.85}),
    }


def test_mean_and_spread_over_the_seeds_by_hand(runs):
    (ema, plain) = lines_of([METHODS["bcp"]], runs, variant="raw")
    assert ema.seeds == (0, 1)
    assert ema.values["dice"] == (0.80, 0.84)
    assert math.isnan(ema.values["hd95_mm"][1])
    assert ema.minutes == (pytest.approx((0.6 + 1.2 + 1.8) * 50 / 60),) * 2
    text = markdown([ema, plain])
    # sqrt(((80 - 82)^2 + (84 - 82)^2) / 1) = 2.83
    assert "| Bidirectional copy-paste | ema | a | 82.00 ± 2.83 | 41.00 ± 1.41 | 4.00 | 1.00 ± 0.00 | 3.0 | 2 |" in text
    assert "| Bidirectional copy-paste | plain | a | 70.00 ± 0.00 |" in text


def test_an_ablation_reads_the_training_that_it_shares(runs):
    lines = lines_of([METHODS["model/a"], METHODS["model/b"]], runs, variant="raw")
    assert [(line.method, line.checkpoint, line.values["dice"][0]) for line in lines] == [
        ("model/a", "ema", 0.90),
        ("model/a", "plain", 0.85),
        ("model/b", "ema", pytest.approx(0.80)),
        ("model/b", "plain", pytest.approx(0.75)),
    ]
    assert "| Model B | ema | b | 80.00 | 40.00 | 4.00 | 1.00 | 3.0 | 1 |" in markdown(lines)


def test_what_is_not_done_is_not_in_the_table(runs):
    runs["ours", 0].metrics_file("plain").unlink()
    assert lines_of([METHODS["ours"]], runs, variant="raw") == []


def test_csv_has_a_row_for_each_figure_and_the_plot_is_drawn(runs, tmp_path):
    lines = lines_of([METHODS["bcp"], METHODS["ours"]], {k: r for k, r in runs.items() if k[0] == "bcp"}, variant="raw")
    rows = comma_separated(lines).splitlines()
    assert rows[0] == "method,title,checkpoint,predictor,seed,dice,jaccard,hd95_mm,asd_mm,minutes"
    assert rows[1] == "bcp,Bidirectional copy-paste,ema,a,0,0.800000,0.400000,4.000000,1.000000,3.00"
    assert len(rows) == 1 + 2 * 2
    plot(lines, tmp_path / "table.png")
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")
