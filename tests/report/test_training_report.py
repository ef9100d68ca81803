"""The report of a training, from the files that one leaves."""

import json
import shutil

import pytest
from PIL import Image
from reports import read_report

from aps_components.report import write_training_report

EVIL = "<script>alert(1)</script>"
STAGES = [
    {
        "name": "first, fold 1",
        "command": ["python", "-m", "monai.bundle", "run", "a b"],
        "seconds": 3725.0,
        "done": True,
    },
    {"name": "second", "command": [], "seconds": 10.0, "done": False},
]


def answered(case, dice, *, nsd=None, **changes):
    entry = {"case": case, "fold": 0, "round": 1, "predictor": "average", "mirrored": False, "calibrated": False}
    return {**entry, "dice": {"wall": dice, "pool": 1.0}, "nsd": nsd, **changes}


CONTENT = {
    "format": 1,
    "plan": {
        "data": {"folder": "scans", "labelled": 3, "unlabelled": 9, "spacing": [1.5, 1.5, 10.0]},
        "bundle": {"labels": {"0": "background", "1": "wall", "2": "pool"}, "roi_size": [48, 48, 16]},
        "stages": [
            {"name": "first, fold 1", "what": "learns from two scans", "seconds": 3600.0},
            {"name": "second", "what": "learns from pseudo-labels", "seconds": 7200.0},
        ],
        "seconds": 10800.0,
        "unknown": ["With three scans the spread is a guess."],
    },
    "stages": STAGES,
    "held_out": [
        answered("good", 0.9, nsd={"wall": 0.95, "pool": 1.0}),
        answered(EVIL, 0.2, nsd={"wall": 0.3, "pool": 1.0}),
        answered("middling", 0.6, nsd={"wall": None, "pool": None}),
        answered("good", 0.95, round=2, predictor="b", mirrored=True),
        answered(EVIL, 0.4, round=2, predictor="b", mirrored=True),
        answered("good", 0.91, round=2, predictor="b"),
        answered("good", 0.5, round=2, predictor="a"),
    ],
    "choices": [
        {"name": "predictor", "chosen": "b", "figures": {"average": 80.0, "b": 91.25}, "note": "on 3 scans"},
        {"name": "windows", "chosen": "yes", "figures": {}, "note": "not measured"},
        {"name": "second round", "chosen": "yes", "figures": {"no": 80.0, "yes": 85.5}, "note": "+5.50 points"},
    ],
    "machine": {"device": "two cores", "threads": 2},
    "versions": {"torch": "2.13"},
}


def write(folder, content):
    folder.mkdir(exist_ok=True)
    (folder / "training.json").write_text(json.dumps(content))
    return folder


def changed(**changes):
    return {**CONTENT, **changes}


def epoch(count):
    return {
        "epoch": count,
        "iteration": 10 * count,
        "seconds_per_iteration": 0.5,
        "learning_rate": 0.01,
        "losses": {"loss": 1 / count},
        "validation": {"dice_average": 0.1 * count},
    }


def write_history(folder, lines):
    folder.mkdir(parents=True)
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def report(tmp_path):
    return read_report(write_training_report(write(tmp_path / "out", CONTENT)))


def test_the_answer_that_was_chosen_is_shown_the_worst_case_first(report):
    """Round 2, B, windows turned: two scans of it were answered."""
    assert "Shown: round 2, Model B, windows turned." in report.words
    assert [row[:3] for row in report.table("case", "mean", "wall")] == [
        [EVIL, "70.0", "40.0"],
        ["good", "97.5", "95.0"],
    ]
    assert [row[0] for row in report.table("class", "Dice %")] == ["wall", "pool"]
    assert "script" not in report.tags


def test_every_round_and_choice_has_its_figures(report):
    rows = {row[0]: row[1:] for row in report.table("answered by")}
    assert rows["round 1, the average of Models A and B"] == ["3", "78.3 ± 14.3", "81.2 ± 16.2"]
    assert rows["round 2, Model A"] == ["1", "75.0", "\N{EN DASH}"]
    assert len(rows) == 4
    choices = {row[0]: row[1:] for row in report.table("choice")}
    assert choices["predictor"] == ["b", "average 80.00; b 91.25", "on 3 scans"]
    assert choices["windows"] == ["yes", "unknown", "not measured"]


def test_plan_time_and_commands_are_there(report):
    assert report.table("planned") == [
        ["first, fold 1", "learns from two scans", "1 h 00 min"],
        ["second", "learns from pseudo-labels", "2 h 00 min"],
    ]
    assert report.table("what ran") == [["first, fold 1", "1 h 02 min", "done"], ["second", "10 s", "not done"]]
    said = (
        "1 h 02 min",
        "two cores",
        "2.13",
        "1.5, 1.5, 10",
        "python -m monai.bundle run 'a b'",
        "the spread is a guess",
    )
    assert all(word in report.words for word in said)


def test_validation_scans_are_told_apart_from_those_that_folds_answer(tmp_path):
    apart = [answered("apart", 0.3, fold=-1, predictor=name) for name in ("a", "b", "average")]
    content = changed(held_out=[answered("held", 0.9, predictor="a"), *apart], choices=[])
    report = read_report(write_training_report(write(tmp_path / "out", content)))
    assert "65.0 %" in report.words  # of the validation scan, 0.3 and 1
    assert "Dice of 1 validation scans, by this model" in report.words
    tables = [rows[1:] for rows in report.tables if rows[0][0] == "answered by"]
    assert sorted(row[0] for row in tables[0]) == ["Model A", "Model B", "the average of Models A and B"]
    assert [row[:3] for row in tables[1]] == [["round 1, Model A", "1", "95.0"]]


def test_without_choices_the_last_round_and_the_average_are_shown(tmp_path):
    content = changed(
        choices=[], held_out=[answered("a", 0.5), answered("a", 0.7, round=2), answered("a", 0.8, predictor="b")]
    )
    assert (
        "Shown: round 2, the average of Models A and B."
        in read_report(write_training_report(write(tmp_path / "out", content))).words
    )


def test_a_second_round_that_was_not_kept_is_not_shown(tmp_path):
    content = changed(choices=[{"name": "second round", "chosen": "no", "figures": {}, "note": ""}])
    assert "Shown: round 1" in read_report(write_training_report(write(tmp_path / "out", content))).words


def test_what_is_missing_is_unknown_and_not_made_up(tmp_path):
    report = read_report(write_training_report(write(tmp_path / "out", {"format": 1})))
    assert "how well the model does on new scans is unknown" in report.words
    assert report.titles == ["Training: out", "Data and plan", "Labelled scans, held out", "Time and machine"]
    assert "The plan is unknown" in report.words
    assert report.tables == report.images == []


@pytest.mark.parametrize("odd", [None, 7, "text", [], [1, "a", None], {"a": 1}, [{"case": 3}], [{"dice": {"a": "x"}}]])
@pytest.mark.parametrize("part", ["plan", "stages", "held_out", "choices", "machine", "versions"])
def test_values_of_another_type_stop_no_report(tmp_path, part, odd):
    read_report(write_training_report(write(tmp_path / "out", changed(**{part: odd}))))


@pytest.mark.parametrize("figure", ["0.9", None, True, [0.5]])
def test_a_figure_that_is_no_number_is_none(tmp_path, figure):
    content = changed(held_out=[answered("a", figure), answered("b", 0.5)], choices=[])
    rows = read_report(write_training_report(write(tmp_path / "out", content))).table("case", "mean", "wall")
    assert {row[0]: row[2] for row in rows} == {"a": "\N{EN DASH}", "b": "50.0"}


def test_there_is_a_curve_of_every_training_that_left_one(tmp_path):
    folder = write(tmp_path / "out", CONTENT)
    write_history(folder / "work" / "fold_1", [epoch(1), epoch(2)])
    write_history(folder / "bundle" / "eval", [epoch(1)])
    write_history(folder / "work" / "broken", [{"epoch": 1, "iteration": 3}])
    report = read_report(write_training_report(folder))
    curves = [alt for alt, _ in report.images if alt.startswith("Losses")]
    assert [alt.rpartition(" ")[2] for alt in curves] == ["bundle/eval", "work/fold_1"]
    assert "work/broken: its history cannot be drawn" in report.words


@pytest.mark.parametrize("where", ["bundle/eval/test", "evaluation"])
def test_evaluations_below_the_folder_are_in_it_and_say_the_headline(tmp_path, where):
    folder = write(tmp_path / "out", CONTENT)
    row = {"case": "t", "predictor": "a", "variant": "raw", "class": "wall", "dice": 0.875, "nsd": 0.5, "hd95_mm": None}
    row |= {"prediction_voxels": 100, "truth_voxels": 80}
    metrics = {
        "context": {"split": "test", "inference_predictor": "a"},
        "cases": [row, {**row, "predictor": "b", "dice": 0.1}],
        "summary": [],
        "scans": [{"case": "t", "voxel_ml": 0.5, "picture": "worst_cases/t.png"}],
    }
    (folder / where / "worst_cases").mkdir(parents=True)
    (folder / where / "metrics.json").write_text(json.dumps(metrics))
    Image.new("RGB", (60, 40)).save(folder / where / "worst_cases" / "t.png")
    shutil.copytree(folder / where, folder / "work" / "fold_1")  # is none of the bundle's
    (folder / "metrics.json").write_text("{}")  # nor is this one
    report = read_report(write_training_report(folder))
    assert f"Dice and NSD by class and case, {where}" in report.titles
    assert sum("Volumes against truth" in title for title in report.titles) == 1
    assert "87.5 %" in report.words
    assert report.table("case", "class", "truth, ml") == [["t", "wall", "40", "50", "+10", "+25.0"]]
    assert [alt for alt, _ in report.pictures("worst error")] == [
        "t: Dice 87.5 %; three planes through its worst error"
    ]


def measured(folder, case, *, split="validation"):
    """An evaluation of one scan by both models."""
    row = {"case": case, "variant": "raw", "class": "wall", "dice": 0.875, "nsd": 0.5, "hd95_mm": None}
    rows = [
        row | {"predictor": predictor, "truth_voxels": 80, "prediction_voxels": voxels}
        for predictor, voxels in (("a", 100), ("b", 60))
    ]
    bins = {"voxels": [0, 8], "confidence": [0.0, 7.5], "correct": [0, 6]}
    scan = {"case": case, "voxel_ml": 0.5, "calibration": {"predictor": "a", "band_mm": 10.0, "ece": 0.19, **bins}}
    folder.mkdir(parents=True)
    content = {"context": {"split": split}, "cases": rows, "summary": [], "scans": [scan]}
    (folder / "metrics.json").write_text(json.dumps(content))


@pytest.mark.parametrize(("fold", "name"), [(0, "labelled scans, held out"), (-1, "validation scans")])
def test_volumes_and_calibration_of_the_answers_that_were_chosen_are_shown(tmp_path, fold, name):
    """Of all evaluations that say them, and by the predictor that was chosen; a path out is passed over."""
    entries = [
        answered(case, 0.875, predictor=predictor, fold=fold, evaluation=where)
        for predictor in ("a", "b")
        for case, where in (("s", "work/one"), ("t", "work/other"), ("u", "../elsewhere"))
    ]
    chosen = [{"name": "predictor", "chosen": "b", "figures": {}, "note": ""}]
    folder = write(tmp_path / "out", changed(held_out=entries, choices=chosen))
    for case, where in (("s", "work/one"), ("t", "work/other"), ("u", "../elsewhere")):
        measured(folder / where, case)
    report = read_report(write_training_report(folder))
    assert f"Volumes against truth, {name}" in report.titles
    assert f"Uncertainty and calibration, {name}" in report.titles
    assert sorted(report.table("case", "class", "truth, ml")) == [
        ["s", "wall", "40", "30", "-10", "-25.0"],
        ["t", "wall", "40", "30", "-10", "-25.0"],
    ]


def test_an_evaluation_of_what_was_learned_from_is_no_headline(tmp_path):
    folder = write(tmp_path / "out", CONTENT)
    measured(folder / "evaluation", "s", split="training")
    report = read_report(write_training_report(folder))
    assert "cases of the training part" not in report.words


def test_pictures_of_held_out_scans_are_shown_where_there_are_some(tmp_path):
    folder = write(tmp_path / "out", changed(held_out=[answered("a", 0.5, picture="a.png")], choices=[]))
    Image.new("RGB", (60, 40)).save(folder / "a.png")
    assert len(read_report(write_training_report(folder)).pictures("worst error")) == 1


def test_what_aps_uncertainty_found_is_in_it(tmp_path):
    folder = write(tmp_path / "out", CONTENT)
    band = {"band": {"auroc": {"mean": 0.8125}}}
    models = [{"name": "8 labelled", "summary": {"detection": {"mutual_information": band, "expected_entropy": {}}}}]
    (folder / "uncertainty").mkdir()
    (folder / "uncertainty" / "report.json").write_text(json.dumps({"models": models}))
    report = read_report(write_training_report(folder))
    assert report.table("map") == [["mutual information", "epistemic", "0.812"]]


def test_a_folder_without_a_training_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"training\.json"):
        write_training_report(tmp_path)
