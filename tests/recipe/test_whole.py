"""A whole training with commands that take no time: what is run, decided, kept and refused."""

import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from case_folders import box, write_cases
from fake_commands import PACE, FakeCommands, options_of

import aps_components
from aps_components.data import case_name, load_datalist
from aps_components.data.errors import DataError
from aps_components.data.identity import identity
from aps_components.models import read_checkpoint, read_settings, save_model
from aps_components.ownership import FolderInUseError
from aps_components.processes import CommandFailedError, CommandStopped
from aps_components.recipe import read_results, train
from aps_components.recipe.display import Display
from aps_components.recipe.journal import Journal
from aps_components.recipe.stages import Stage, StageFailedError, run_chains

BOXES = {1: box((8, 28), (12, 30), (8, 20))}
LONG = {"time": "4h", "recipe": {"folds": 3}, "jobs": 1}
SHORT = {"time": "30m", "recipe": {}, "jobs": 2}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Six labelled scans of five patients, four without a label, one of them of a labelled patient."""
    folder = tmp_path_factory.mktemp("scans")
    write_cases(folder, labelled=6, unlabelled=4, shape=(36, 34, 32), boxes=BOXES)
    names = ["p0_frame1", "p0_frame2", "p1", "p2", "p3", "p4", "p4_frame3", "q1", "q2", "q3"]
    for index, name in enumerate(names):
        for part in ("images", "labels"):
            if (file := folder / part / f"c{index:02d}.nii.gz").exists():
                file.rename(folder / part / f"{name}.nii.gz")
    return folder


def run(scans, out, commands=None, **options):
    commands = commands or FakeCommands()
    with (
        patch("aps_components.recipe.stages.run_logged", commands),
        patch("aps_components.recipe.whole.measure_pace", lambda *_, **__: PACE),
        patch("aps_components.recipe.stages.SECONDS_BETWEEN_LOOKS", 0.01),
    ):
        return commands, train(scans, out, **{**LONG, **options})


def test_a_plan_is_printed_and_nothing_is_written(scans, tmp_path, capsys):
    commands, results = run(scans, tmp_path / "out", dry_run=True, options={"swelling": 0.3, "augmentation": "full"})
    assert not (tmp_path / "out").exists()
    assert commands.kinds == []
    printed = capsys.readouterr().out
    for option, value in {"augmentation": '"full"', "swelling": "0.3"}.items():
        assert re.search(rf"{option} +{value}\n +as given", printed)
    assert "6 labelled scans of 5 patients, 4 unlabelled" in printed
    assert "3 trainings of" in printed
    assert 0.9 * 4 * 3600 < results.plan.seconds < 4 * 3600


def test_all_rounds_end_in_a_bundle(scans, tmp_path):
    commands, results = run(scans, tmp_path / "out", FakeCommands(better(round=2)), options={"flip_axes": [0]})
    judged = 3 * ["training", "evaluating", "calibrate", "evaluating", "evaluating"]
    checked = 2 * ["pseudo-label", "training", "calibrate", "evaluating"]
    beside = 2 * ["training", "calibrate", "evaluating"]
    complete = 3 * ["training"]
    last = ["pseudo-label", "training", "training", "calibrate"]
    assert commands.kinds == judged + checked + beside + complete + last
    model = tmp_path / "out" / "bundle" / "models" / "model.pt"
    assert model.is_file()
    assert read_settings(model)["inference_predictor"] == "a"
    rounds = read_settings(model)["rounds"]
    counts = {"fold": 3, "second": 2, "beside": 2, "complete": 3}
    folds = [f"{kind}_{index}" for kind, count in counts.items() for index in range(1, count + 1)]
    assert [told["name"] for told in rounds] == [*folds, "last", "beside"]
    assert all(len(told["weights_sha256"]) == 64 for told in rounds)
    assert read_results(tmp_path / "out") == results
    assert all(stage.done for stage in results.stages)
    assert len((tmp_path / "out" / "commands.sh").read_text().split("\npython -m ")) - 1 == len(commands.kinds)
    page = (tmp_path / "out" / "bundle" / "docs" / "README.md").read_text()
    assert "Dice 50.0 % (standard deviation 0.0 over 6 scans" in page
    assert "Nothing has been measured" not in page
    assert page.index("## Performance") < page.index("## MONAI Bundle Commands")


def test_a_folder_with_a_comma_in_its_name(scans, tmp_path):
    commands, _ = run(scans, tmp_path / "first, second", FakeCommands(better(round=2)))
    assert commands.kinds.count("pseudo-label") == 3
    assert (tmp_path / "first, second" / "bundle" / "models" / "model.pt").is_file()


def test_without_flips_nothing_is_said_of_turned_windows(scans, tmp_path):
    _, results = run(scans, tmp_path / "out")
    assert "windows" not in {choice.name for choice in results.choices}
    assert not any(entry.mirrored for entry in results.held_out)


def test_every_labelled_scan_is_held_out_once_and_no_fold_sees_its_patients(scans, tmp_path):
    _, results = run(scans, tmp_path / "out")
    plain = [e for e in results.held_out if e.predictor == "a" and e.round == 1 and not e.calibrated and not e.mirrored]
    assert sorted(entry.case for entry in plain) == ["p0_frame1", "p0_frame2", "p1", "p2", "p3", "p4"]
    assert len({entry.fold for entry in plain if entry.case.startswith("p0")}) == 1
    for fold in range(3):
        datalist = load_datalist(tmp_path / "out" / "work" / f"fold_{fold + 1}" / "scans")
        apart = {case_name(item).split("_")[0] for item in datalist.validation}
        assert apart.isdisjoint(case_name(item).split("_")[0] for item in datalist.training_items)


def test_no_command_of_a_fold_reads_what_another_one_wrote(scans, tmp_path):
    """Neither its scans nor a model that has learned from those that it holds out."""
    commands, _ = run(scans, tmp_path / "out", FakeCommands(better(round=2)))
    place = re.compile(rf"{re.escape(str(tmp_path / 'out' / 'work'))}/([a-z]+)(?:_(\d))?(?=/|$)")
    judged = 0
    for options in map(options_of, commands.commands):
        written = options.get("ckpt_dir") or options.get("target") or options["output_dir"]
        for name, fold in place.findall(written)[:1]:
            if name in ("fold", "second", "beside") and fold:
                read = [options.get(key, "") for key in ("dataset_dir", "checkpoint", "checkpoints", "pretrained")]
                assert {number for text in read for _, number in place.findall(text)} == {fold}, options
                judged += 1
    assert judged == 3 * 4 + 2 * 4 + 2 * 3  # folds; second rounds and Model B beside two of them


def better(**wanted):
    """Dice 0.6 for answers that are so, else 0.5."""
    return lambda what: 0.6 if all(what[key] == value for key, value in wanted.items()) else 0.5


def of_kind(commands, kind):
    """Options of the commands of a kind, in their order."""
    return [options_of(c) for c, found in zip(commands.commands, commands.kinds, strict=True) if found == kind]


@pytest.mark.parametrize("wanted", ["average", "b"])
def test_the_better_predictor_answers_in_the_bundle(scans, tmp_path, wanted):
    commands, results = run(scans, tmp_path / "out", FakeCommands(better(predictor=wanted)))
    assert read_settings(tmp_path / "out" / "bundle" / "models" / "model.pt")["inference_predictor"] == wanted
    assert {options["predictor"] for options in of_kind(commands, "pseudo-label")} == {"a"}
    assert results.choices[0].figures == {"average": 50.0, "a": 50.0, "b": 50.0, wanted: 60.0}


def test_model_b_is_judged_where_the_second_round_is_not(scans, tmp_path):
    recipe = {"folds": 3, "checked_from": 86_400, "least_teacher": 0}
    _, results = run(scans, tmp_path / "out", FakeCommands(better(predictor="average")), recipe=recipe)
    chosen = {choice.name: choice.chosen for choice in results.choices}
    assert (chosen["second round"], chosen["predictor"]) == ("yes", "average")
    assert {entry.round for entry in results.held_out} == {1}


def test_a_second_round_has_offsets_whatever_the_first_one_said_and_says_so(scans, tmp_path):
    recipe = {"folds": 3, "checked_from": 86_400, "least_teacher": 0}
    _, results = run(scans, tmp_path / "out", FakeCommands(better(calibrated=False)), recipe=recipe)
    (choice,) = (choice for choice in results.choices if choice.name == "calibration")
    assert (choice.chosen, choice.figures) == ("yes", {"no": 60.0, "yes": 50.0})
    assert re.fullmatch(r"first round: -10.00 points .*; a second round gets its offsets afterwards", choice.note)


def test_the_card_of_an_average_that_was_judged_in_the_second_round(scans, tmp_path):
    def dice(what):
        return 0.7 if what["beside"] and what["predictor"] == "average" else better(round=2)(what)

    run(scans, tmp_path / "out", FakeCommands(dice))
    page = (tmp_path / "out" / "bundle" / "docs" / "README.md").read_text()
    assert "another scan of its patient (Model A's answers): **Dice 50.0 %" in page
    assert "After a second round, on 4 of these scans: Dice 70.0 %" in page
    assert "no Dice" not in page


def test_a_bundle_that_was_moved_away_is_made_again_with_its_weights(scans, tmp_path):
    run(scans, tmp_path / "out")
    model = Path("bundle") / "models" / "model.pt"
    (tmp_path / "out" / "bundle").rename(tmp_path / "bundle")
    again, _ = run(scans, tmp_path / "out")
    assert again.kinds == []
    assert read_settings(tmp_path / "out" / model) == read_settings(tmp_path / model)
    assert read_checkpoint(tmp_path / "out" / model).keys() == {"weight"}


@pytest.mark.parametrize(("predictor", "answers"), [("a", 6 * [0.5]), ("average", 4 * [0.6])])
def test_predicted_dice_is_of_answers_by_the_predictor_of_the_bundle_each_scan_once(
    scans, tmp_path, predictor, answers
):
    def dice(what):
        """Model A answers all three folds; beside a Model B, two of them once more."""
        return 0.4 if what["beside"] and what["predictor"] == "a" else better(predictor="average")(what)

    def equal(what):
        return 0.1 if what["beside"] and what["predictor"] != "a" else 0.5

    run(scans, tmp_path / "out", FakeCommands(dice if predictor == "average" else equal))
    settings = read_settings(tmp_path / "out" / "bundle" / "models" / "model.pt")
    assert settings["inference_predictor"] == predictor
    (points,) = settings["doubt"]["classes"].values()
    assert points["dice"] == answers
    assert settings["doubt"]["scans"] == len(answers)


def test_rounds_train_model_a_alone_and_model_b_beside_it(scans, tmp_path):
    commands, _ = run(scans, tmp_path / "out", FakeCommands(better(round=2)))
    trainings = of_kind(commands, "training")
    alone = [options for options in trainings if options.get("objective#train_b") == "False"]
    beside = [options for options in trainings if options.get("train_a") == "False"]
    assert (len(alone), len(beside)) == (3 + 2 + 3 + 1, 2 + 1)
    starts = [Path(options["pretrained"]).relative_to(tmp_path / "out" / "work").as_posix() for options in beside]
    assert starts == ["second_1/models/model.pt", "second_2/models/model.pt", "beside/start.pt"]
    assert alone[-1]["pretrained"] == str(tmp_path / "out" / "work" / "second_1" / "models" / "model.pt")


def test_the_models_that_label_have_learned_from_every_labelled_scan(scans, tmp_path):
    commands, _ = run(scans, tmp_path / "out", FakeCommands(better(round=2)))
    work = tmp_path / "out" / "work"
    completed = [o for o in of_kind(commands, "training") if Path(o["ckpt_dir"]).parent.name.startswith("complete_")]
    assert [Path(o["pretrained"]).parents[1].name for o in completed] == ["fold_1", "fold_2", "fold_3"]
    assert {o["dataset_dir"] for o in completed} == {str(work / "all")}
    labelling = of_kind(commands, "pseudo-label")[-1]
    assert all(f"complete_{index}/models" in labelling["checkpoints"] for index in (1, 2, 3))


def test_the_last_model_b_goes_on_from_the_judged_one_beside_the_last_model_a(scans, tmp_path):
    class Weights(FakeCommands):
        def training(self, options):
            super().training(options)
            file = Path(options["ckpt_dir"]) / "model.pt"
            weights = {f"{part}.weight": torch.full((1,), len(self.kinds)) for part in ("model_a", "model_b", "fusion")}
            save_model(weights, read_settings(file), file)

    commands = Weights()
    run(scans, tmp_path / "out", commands)
    work, trainings = tmp_path / "out" / "work", [i for i, kind in enumerate(commands.kinds, 1) if kind == "training"]
    start = read_checkpoint(work / "beside" / "start.pt")
    judged, last = trainings[5], trainings[7]  # after three folds and two second rounds: Model B of the first fold
    assert {name: int(value) for name, value in start.items()} == {
        "model_a.weight": last,
        "model_b.weight": judged,
        "fusion.weight": judged,
    }


def test_turned_windows_are_the_bundles_where_they_are_better(scans, tmp_path):
    run(scans, tmp_path / "out", FakeCommands(better(mirrored=True)), options={"flip_axes": [0]})
    assert read_settings(tmp_path / "out" / "bundle" / "models" / "model.pt")["inference_mirror_axes"] == [0]


@pytest.mark.parametrize(("round", "kept"), [(1, False), (2, True)])
def test_the_second_round_is_kept_where_it_is_better(scans, tmp_path, round, kept):
    commands, results = run(scans, tmp_path / "out", FakeCommands(better(round=round)))
    for last in of_kind(commands, "training")[-2:]:
        assert last["dataset_dir"].endswith("second" if kept else "all")
        assert (int(last["unlabeled_batch"]) == 0) == kept
    assert results.choices[-1].chosen == ("yes" if kept else "no")
    assert commands.kinds.count("pseudo-label") == 2 + kept


def test_after_an_end_nothing_is_repeated(scans, tmp_path):
    whole, _ = run(scans, tmp_path / "whole")
    for kind, number in (("training", 1), ("evaluating", 5), ("pseudo-label", 2), ("calibrate", 4), ("training", 9)):
        out = tmp_path / f"{kind}_{number}"
        first = FakeCommands(fails=(kind, number))
        with pytest.raises(KeyboardInterrupt):
            run(scans, out, first)
        again, _ = run(scans, out)
        assert first.kinds[:-1] + again.kinds == whole.kinds
    again, results = run(scans, tmp_path / "whole")
    assert again.kinds == []
    assert read_results(tmp_path / "whole") == results


def test_of_trainings_beside_each_other_the_one_that_failed_is_named(tmp_path):
    """Not those that were stopped because of it, which may be the first to end."""
    both = threading.Barrier(2)

    def run_logged(command, *, stop, **_):
        both.wait(10)
        if command == ["bad"]:
            raise CommandFailedError("the loss is nan")
        assert stop.wait(10)
        raise CommandStopped

    stages = [[Stage(name=name, command=[name], log=tmp_path / "a.log")] for name in ("good", "bad")]
    with patch("aps_components.recipe.stages.run_logged", run_logged):
        for attempt in range(5):
            journal = Journal(tmp_path / str(attempt), {})
            with pytest.raises(StageFailedError, match="bad failed: the loss is nan"):
                run_chains(stages, jobs=2, threads=1, journal=journal, display=Display(lambda: 0.0))


def test_a_failure_names_the_stage_and_goes_on_afterwards(scans, tmp_path):
    commands = FakeCommands(fails=("training", 2))
    commands.error = CommandFailedError("ValueError: the loss is nan (all of it: training.log)")
    with pytest.raises(StageFailedError, match=r"^first round, fold 2 failed: ValueError: the loss is nan \(all of"):
        run(scans, tmp_path / "out", commands)
    again, _ = run(scans, tmp_path / "out")
    assert again.kinds[:2] == ["training", "evaluating"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": "5h"}, r"other options \(time 14400.0 there, 18000.0 now\)"),
        ({"seed": 1}, "seed 0 there, 1 now"),
        ({"labels": "1:liver"}, "labels None there"),
        ({"recipe": {"folds": 4}}, r"recipe#folds 3 there, 4 now"),
        ({"options": {"augmentation": "affine"}}, "options#augmentation None there, 'affine' now"),
    ],
)
def test_a_call_that_contradicts_the_folder_is_refused(scans, tmp_path, changes, message):
    with pytest.raises(KeyboardInterrupt):
        run(scans, tmp_path / "out", FakeCommands(fails=("training", 1)))
    with pytest.raises(ValueError, match=message):
        run(scans, tmp_path / "out", **changes)


def test_a_folder_that_another_version_began_is_refused(scans, tmp_path):
    run(scans, tmp_path / "out", **SHORT)
    file = tmp_path / "out" / "work" / "journal.json"
    journal = json.loads(file.read_text())
    del journal["asked"]["recipe"]["enough_of_one"]
    file.write_text(json.dumps(journal))
    with pytest.raises(ValueError, match="another version began, by another recipe: give another --out"):
        run(scans, tmp_path / "out", **SHORT)


def test_the_part_that_is_held_out_is_a_usual_one_though_a_patient_has_many_scans(tmp_path):
    """Of 8, 1, 1 and 1 scans of four patients a part of 1, not the 8."""
    write_cases(tmp_path / "scans", labelled=11, unlabelled=2, shape=(36, 34, 32), boxes=BOXES)
    for index in range(8):
        for part in ("images", "labels"):
            file = tmp_path / "scans" / part / f"c{index:02d}.nii.gz"
            file.rename(file.with_name(f"p0_frame{index}.nii.gz"))
    _, results = run(tmp_path / "scans", tmp_path / "out", **SHORT)
    assert len({entry.case for entry in results.held_out}) == 1


def test_other_scans_are_refused(scans, tmp_path):
    copy = shutil.copytree(scans, tmp_path / "scans")
    with pytest.raises(KeyboardInterrupt):
        run(copy, tmp_path / "out", FakeCommands(fails=("training", 1)))
    shutil.copy(copy / "labels" / "p1.nii.gz", copy / "labels" / "q1.nii.gz")
    with pytest.raises(
        DataError, match=r"has other scans than .* \(another image, label or part for q1\): give another --out"
    ):
        run(copy, tmp_path / "out")


def test_a_folder_of_something_else_and_one_in_use_are_refused(scans, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(ValueError, match=r"letters holds a.txt, and no training of aps train"):
        run(scans, tmp_path / "letters")


def test_a_folder_in_use_is_refused_to_others(scans, tmp_path):
    code = f"from aps_components.ownership import own; own({str(tmp_path / 'out')!r})"
    environ = {"PYTHONPATH": str(Path(aps_components.__file__).parents[1])}
    said = []

    def while_it_trains(*_, **__):
        other = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
        said.append(other.stderr)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(scans, tmp_path / "out", while_it_trains)
    assert FolderInUseError.__name__ in said[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": "4"}, "time '4' must be a number with its unit, such as 4h"),
        ({"time": "1 s"}, "time 1 s is too short"),
        ({"options": {"epochs": 3}}, "--epochs is not for aps train: it follows from --time and --recipe"),
        ({"options": {"augmentaton": "full"}}, "no option --augmentaton; did you mean --augmentation"),
        ({"labels": "liver"}, "write VALUE:NAME"),
        ({"jobs": 0}, "jobs 0 must be a whole number from 1 on"),
        ({"roi_size": [30, 32, 32]}, "roi_size .* divisible by 16"),
    ],
)
def test_wrong_arguments_are_refused(scans, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(scans, tmp_path / "out", **changes)


def test_two_labelled_scans_have_no_folds_and_the_card_says_so(tmp_path):
    write_cases(tmp_path / "few", labelled=2, unlabelled=3, shape=(36, 34, 32), boxes=BOXES)
    commands, results = run(tmp_path / "few", tmp_path / "out")
    assert commands.kinds == ["training", "training", "pseudo-label", "training", "training", "calibrate"]
    assert results.held_out == []
    page = (tmp_path / "out" / "bundle" / "docs" / "README.md").read_text()
    assert "nobody will know how good the model is" in page


def test_with_little_time_one_training_is_without_some_scans_and_the_last_one_goes_on_from_it(scans, tmp_path):
    commands, results = run(scans, tmp_path / "out", FakeCommands(better(calibrated=True)), **SHORT)
    first = ["training", "evaluating", "calibrate", "evaluating"]
    assert commands.kinds == [*first, "training", "training", "calibrate"]
    held_out = {entry.case for entry in results.held_out}
    assert held_out in ({"p0_frame1", "p0_frame2"}, {"p1", "p2"}, {"p3", "p4"}, {"p1"}, {"p2"}, {"p3"}, {"p4"})
    trained, last, _ = of_kind(commands, "training")
    assert last["pretrained"] == f"{trained['ckpt_dir']}/model.pt"
    assert int(trained["warmup_epochs"]) > 0
    assert int(last["warmup_epochs"]) == 0
    page = (tmp_path / "out" / "bundle" / "docs" / "README.md").read_text()
    assert "answered by a training that did not learn from them, or from another scan of their patients" in page
    assert "too short to hold out every labelled scan once" in page


def test_a_single_training_of_the_first_round_has_every_core(scans, tmp_path):
    seen = []

    class Watched(FakeCommands):
        def __call__(self, command, *, threads, **more):
            seen.append(threads)
            super().__call__(command, **more)

    with patch("aps_components.recipe.from_scans.cores", lambda: 4):
        run(scans, tmp_path / "out", Watched(), **SHORT)
    assert set(seen) == {4}


def test_scans_that_a_datalist_keeps_apart_are_answered_at_the_end_alone(phantoms, tmp_path):
    commands, results = run(phantoms, tmp_path / "out")
    apart = [entry for entry in results.held_out if entry.fold == -1]
    assert {entry.case for entry in apart} == {"phantom_007", "phantom_008"}
    assert commands.kinds[-1] == "evaluating"
    for folder in (tmp_path / "out" / "work").glob("fold_*/scans"):
        names = {case_name(item) for part in ("training", "validation") for item in load_datalist(folder).part(part)}
        assert names <= {f"phantom_{index:03d}" for index in range(7)}
    bundle = json.loads((tmp_path / "out" / "bundle" / "configs" / "datalist.json").read_text())
    assert [len(bundle[part]) for part in ("training", "unlabeled", "validation", "test")] == [4, 3, 2, 2]
    assert bundle["labels"] == {"0": "background", "1": "left atrium"}


def test_it_is_at_hand_where_one_looks_for_it():
    assert aps_components.train is train


def test_every_training_begins_with_what_fits_of_another_model(scans, tmp_path):
    model = tmp_path / "model.pt"
    model.write_bytes(b"weights")
    commands, _ = run(scans, tmp_path / "out", pretrained=model)
    trainings = [options_of(c) for c, kind in zip(commands.commands, commands.kinds, strict=True) if kind == "training"]
    first, later = trainings[:3], trainings[3:]
    assert {(found["pretrained"], found["pretrained_part"]) for found in first} == {(str(model), "fitting")}
    assert {found["pretrained_part"] for found in later} == {"all"}
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nowhere.pt"):
        run(scans, tmp_path / "other", pretrained=tmp_path / "nowhere.pt")
    with pytest.raises(ValueError, match=r"pretrained '.*' there, None now"):
        run(scans, tmp_path / "out")


def test_scans_that_the_model_to_begin_with_has_seen_are_not_held_out(scans, tmp_path):
    model, seen = tmp_path / "model.pt", {"image": str(scans / "images" / "p1.nii.gz")}
    save_model({"weight": torch.zeros(1)}, {"cases": {"unlabeled": [identity(seen)]}}, model)
    commands, results = run(scans, tmp_path / "out", pretrained=model)
    assert "evaluating" not in commands.kinds
    assert results.held_out == []
    assert results.plan.unknown[0].startswith(
        "The model to begin with has learned from 1 of the 6 labelled scans, and none is held out: nobody will know"
    )
    assert of_kind(commands, "training")[0]["pretrained"] == str(model)


def test_preprocessed_scans_lie_where_one_stands_and_the_bundle_knows_nothing_of_it(scans, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands, _ = run(scans, tmp_path / "out", options={"cache_dir": "cache"})
    assert {found["cache_dir"] for found in of_kind(commands, "training")} == {str(tmp_path / "cache")}
    assert json.loads((tmp_path / "out" / "bundle" / "configs" / "train.json").read_text())["cache_dir"] is None


def test_options_that_were_refused_before_anything_was_trained_may_be_mended(scans, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="too short"):
        run(scans, out, time="1 s")
    with pytest.raises(ValueError, match="name all of them"):
        run(scans, out, labels="3:other")
    commands, results = run(scans, out, labels="1:organ")
    assert results.plan.bundle["labels"]["1"] == "organ"
    assert commands.kinds
    with pytest.raises(ValueError, match="other options"):
        run(scans, out, labels="1:other")


def test_a_label_that_was_drawn_anew_is_another_training(scans, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(scans, data)
    run(data, out)
    write_cases(
        tmp_path / "more", labelled=1, unlabelled=0, shape=(36, 34, 32), boxes={1: box((9, 28), (12, 30), (8, 20))}
    )
    shutil.copy(tmp_path / "more" / "labels" / "c00.nii.gz", data / "labels" / "p1.nii.gz")
    with pytest.raises(DataError, match=r"another image, label or part for p1\)"):
        run(data, out)
