import json
from pathlib import Path

import pytest

from aps_components.studies.comparison.methods import load_methods
from aps_components.studies.comparison.runs import Run
from aps_components.studies.comparison.table import DIFFERENCE, comma_separated, figures_of, markdown, plot

METHODS = load_methods()


def finished_run(folder: Path, name: str, seed: int, dice: dict[str, float], hd95: float | None = 4.0) -> Run:
    """A run whose result is there, by the Dice of each checkpoint for predictor a."""
    run = Run(
        method=METHODS[name],
        seed=seed,
        out=folder,
        results=folder,
        bundle=Path("bundles/la"),
        options={},
        epochs=3,
        split="validation",
    )
    means = {
        checkpoint: [
            entry(predictor, variant, group, dice[checkpoint] - less, hd95)
            for predictor, less in (("a", 0.0), ("b", 0.1), ("average", 0.05))
            for variant in ("raw", "largest_component")
            for group in ("one", "two", "all")
        ]
        for checkpoint in dice
    }
    run.result_file.parent.mkdir(parents=True, exist_ok=True)
    run.result_file.write_text(json.dumps({"minutes": 3.0, "metrics": means}))
    return run


def entry(predictor, variant, group, dice, hd95):
    dice = dice if group == "all" and variant == "raw" else 0.0
    key = {"predictor": predictor, "variant": variant, "class": group}
    by_scan = {"dice_by_scan": {"s": dice - 0.1, "t": dice + 0.2, "u": dice + 0.1}} if group == "all" else {}
    return key | by_scan | {"dice": dice, "jaccard": dice / 2, "hd95_mm": hd95, "asd_mm": 1.0, "volume_ratio": 1.25}


@pytest.fixture
def runs(tmp_path):
    return {
        ("bcp", 0): finished_run(tmp_path, "bcp", 0, {"ema": 0.80, "plain": 0.70}),
        ("bcp", 1): finished_run(tmp_path, "bcp", 1, {"ema": 0.84, "plain": 0.70}, hd95=None),
        ("ours", 0): finished_run(tmp_path, "ours", 0, {"ema": 0.90, "plain": 0.85}),
    }


def test_mean_and_spread_over_the_seeds_by_hand(runs):
    figures = figures_of([METHODS["bcp"]], runs, variant="raw")
    ema = figures[figures["checkpoint"] == "ema"]
    assert ema["seed"].tolist() == [0, 1]
    assert ema["dice"].tolist() == [0.80, 0.84]
    assert ema["hd95_mm"].isna().tolist() == [False, True]
    assert ema["minutes"].tolist() == [3.0, 3.0]
    text = markdown(figures)
    # sqrt(((80 - 82)^2 + (84 - 82)^2) / 1) = 2.83
    row = "| ema | a | 82.00 ± 2.83 | -5.00 | 92.00 ± 2.83 | 72.00 ± 2.83 | 41.00 ± 1.41 | 4.00 |"
    assert "| method | weights | model | Dice % | to Ours | median scan % | worst scan % | Jaccard % |" in text
    assert f"| Bidirectional copy-paste {row}" in text
    assert "| Bidirectional copy-paste | plain | a | 70.00 ± 0.00 | -10.00 |" in text


def test_a_checkpoint_that_only_some_results_have(runs, tmp_path):
    """An earlier version wrote no calibrated ones."""
    runs["bcp", 2] = finished_run(tmp_path, "bcp", 2, {"ema": 0.82, "calibrated": 0.86, "plain": 0.70})
    runs["ours", 2] = finished_run(tmp_path, "ours", 2, {"ema": 0.90, "calibrated": 0.88, "plain": 0.85})
    figures = figures_of([METHODS["bcp"]], runs, variant="raw")
    seeds = figures.groupby("checkpoint", sort=False)["seed"].apply(list).to_dict()
    assert list(seeds.items()) == [("ema", [0, 1, 2]), ("calibrated", [2]), ("plain", [0, 1, 2])]
    # ours is its average, 0.05 below its dice of a
    assert figures[figures["checkpoint"] == "calibrated"][DIFFERENCE].tolist() == pytest.approx([0.03])
    plot(figures, tmp_path / "table.png")


def test_an_ablation_reads_the_training_that_it_shares(runs):
    figures = figures_of([METHODS["model/a"], METHODS["model/b"]], runs, variant="raw")
    assert figures[["method", "checkpoint", "dice"]].values.tolist() == [
        ["model/a", "ema", 0.90],
        ["model/a", "plain", 0.85],
        ["model/b", "ema", pytest.approx(0.80)],
        ["model/b", "plain", pytest.approx(0.75)],
    ]
    assert "| Model B | ema | b | 80.00 | -5.00 | 90.00 | 70.00 | 40.00 | 4.00 | 1.00 | 125.00 | 3.0 | 1 |" in markdown(
        figures
    )


def test_differences_are_those_to_ours_with_the_same_seed(runs):
    """Ours is measured as the average of A and B; with seed 0 it has a figure, with seed 1 none."""
    methods = [METHODS[name] for name in ("bcp", "model/a", "ours", "model/average")]
    figures = figures_of(methods, runs, variant="raw")
    found = {key: rows[DIFFERENCE].dropna().tolist() for key, rows in figures.groupby(["method", "checkpoint"])}
    assert found["bcp", "ema"] == pytest.approx([0.80 - 0.85])
    assert found["bcp", "plain"] == pytest.approx([0.70 - 0.80])
    assert found["model/a", "ema"] == pytest.approx([0.90 - 0.85])
    assert found["ours", "ema"] == found["model/average", "ema"] == []
    text = markdown(figures)
    assert "| Bidirectional copy-paste | ema | a | 82.00 ± 2.83 | -5.00 |" in text
    assert "| Model A | ema | a | 90.00 | +5.00 |" in text


def test_a_result_without_the_scans_own_dice_has_a_table_all_the_same(runs):
    file = runs["bcp", 0].result_file
    result = json.loads(file.read_text())
    for entries in result["metrics"].values():
        for means in entries:
            means.pop("dice_by_scan", None)
    file.write_text(json.dumps(result))
    figures = figures_of([METHODS["bcp"]], {("bcp", 0): runs["bcp", 0]}, variant="raw")
    assert figures["dice_worst"].isna().all()
    assert "| 80.00 | - | - | - | 40.00 | 4.00 |" in markdown(figures)


def test_what_is_not_done_is_not_in_the_table(runs):
    runs["ours", 0].result_file.unlink()
    figures = figures_of([METHODS["ours"]], runs, variant="raw")
    assert figures.empty
    assert len(markdown(figures).splitlines()) == 2  # the head
    assert len(comma_separated(figures).splitlines()) == 1


def test_csv_has_a_row_for_each_figure_and_the_plot_is_drawn(runs, tmp_path):
    of_bcp = {key: run for key, run in runs.items() if key[0] == "bcp"}
    figures = figures_of([METHODS["bcp"], METHODS["ours"]], of_bcp, variant="raw")
    rows = comma_separated(figures).splitlines()
    metrics = "dice,dice_median,dice_worst,jaccard,hd95_mm,asd_mm,volume_ratio"
    assert rows[0] == f"method,title,checkpoint,predictor,seed,{metrics},minutes"
    values = "0.800000,0.900000,0.700000,0.400000,4.000000,1.000000,1.250000"
    assert rows[1] == f"bcp,Bidirectional copy-paste,ema,a,0,{values},3.00"
    assert len(rows) == 1 + 2 * 2
    plot(figures, tmp_path / "table.png")
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "change",
    [
        {"minutes": "3"},
        {"minutes": None},
        {"metrics": []},
        {"metrics": {"ema": {}}},
        {"metrics": {"ema": [{"predictor": "a"}]}},
        {"metrics": {"ema": [entry("a", "raw", "all", 0.5, 1.0) | {"jaccard": "0.5"}]}},
        {"metrics": {"ema": [entry("a", "raw", "all", 0.5, 1.0) | {"dice_by_scan": {"s": None}}]}},
        {"metrics": {"ema": [entry("b", "raw", "all", 0.5, 1.0)]}},
        {"metrics": {"ema": []}},
    ],
)
def test_a_result_that_is_none_is_named(runs, change):
    file = runs["bcp", 1].result_file
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match="delete it to make it anew") as error:
        figures_of([METHODS["bcp"]], runs, variant="raw")
    assert str(file) in str(error.value)
