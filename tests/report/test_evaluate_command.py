"""``aps evaluate`` on a tiny model: the bundle's own evaluation, in this process where that is enough."""

import ast
import csv
import json
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
from reports import read_report
from workflows import BUNDLES, TINY, run_workflow, untrained_copy

from aps_components import cli
from aps_components.data import DataError, case_identities, load_datalist
from aps_components.errors import root_cause
from aps_components.report.evaluate import EvaluationFailed, evaluate

OPTIONS = {key: value for key, value in TINY.items() if key not in ("bundle_root", "roi_size")}


def literal(text):
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def ended(status, said=()):
    """A process that has ended, and what it said."""
    return nullcontext(SimpleNamespace(returncode=status, stdout=said))


def flags_of(command):
    """Options by their flags."""
    said = command[command.index("evaluating") + 1 :]
    return dict(zip(said[::2], said[1::2], strict=True))


@pytest.fixture
def here(monkeypatch):
    """Commands run in this process; what they refused is kept, as their last line would be."""
    said = []

    def run(command, **_):
        flags = flags_of(command)
        files = [file.rpartition("/")[2] for file in literal(flags.pop("--config_file"))]
        options = {key.removeprefix("--"): literal(value) for key, value in flags.items()}
        try:
            run_workflow(*files, kind="train", options=options, pictures=True)
        except Exception as error:
            said.append(str(root_cause(error)))
        return ended(len(said))

    monkeypatch.setattr("aps_components.report.evaluate.start", run)
    return said


@pytest.fixture
def trained(tmp_path, tiny_checkpoint, phantoms):
    """What a whole training leaves: a bundle with weights that know which scans they learned from."""
    bundle = untrained_copy(BUNDLES / "la", tmp_path / "run" / "bundle")
    datalist = load_datalist(phantoms)
    cases = case_identities(datalist.training_items, datalist.validation)
    for file in tiny_checkpoint(cases=cases).parent.iterdir():
        shutil.copy(file, bundle / "models")
    return tmp_path / "run"


def folder_of(place, items):
    """``images/`` and ``labels/`` with other names than the scans had."""
    for number, item in enumerate(items):
        for part in ("image", "label"):
            (place / f"{part}s").mkdir(parents=True, exist_ok=True)
            shutil.copy(item[part], place / f"{part}s" / f"new_{number}.nii.gz")
    return place


def test_scans_in_a_folder_are_judged_and_reported(trained, phantoms, tmp_path, here, capsys):
    data = folder_of(tmp_path / "mine", load_datalist(phantoms).test)
    file = evaluate(trained, data, options=OPTIONS)
    assert here == []
    assert file == trained / "evaluation" / "mine" / "report.html"
    metrics = json.loads((file.parent / "metrics.json").read_text())
    assert metrics["context"]["data"] == str(data)
    with open(file.parent / "metrics.csv", newline="") as stream:
        assert {row["case"] for row in csv.DictReader(stream)} == {"new_0", "new_1"}
    report = read_report(file)
    dice = {
        row["case"]: row["dice"]
        for row in metrics["cases"]
        if (row["predictor"], row["variant"]) == ("average", "largest_component")
    }
    assert [row[0] for row in report.table("case", "Dice %")] == sorted(dice, key=dice.get)
    assert len(report.pictures("worst error")) == 2
    said = capsys.readouterr().out
    assert "$ python -m monai.bundle run evaluating" in said
    mean = sum(dice.values()) / 2
    whose = "the average of Models A and B, without the pieces that inference drops"
    assert said.endswith(f"Dice of {whose}: {100 * mean:.1f} % over 2 scans\n")
    assert "--split" not in report.words


def test_scans_that_it_learned_from_are_refused_whatever_they_are_called(trained, phantoms, tmp_path, here):
    datalist = load_datalist(phantoms)
    data = folder_of(tmp_path / "mine", [*datalist.test, datalist.labeled[1]])
    with pytest.raises(EvaluationFailed, match="nothing was evaluated"):
        evaluate(trained, data, options=OPTIONS)
    assert "was trained on 1 of the 3 test scans (new_2)" in here[0]
    page = trained / "evaluation" / "mine" / "report.html"
    assert not page.exists()
    page.touch()
    with pytest.raises(EvaluationFailed, match=r"mine/report.html is of an earlier call"):
        evaluate(trained, data, options=OPTIONS)


def test_a_dataset_with_its_parts_and_a_bundle_alone(trained, phantoms, tmp_path, here):
    options = OPTIONS | {"predictor": "a"}
    file = evaluate(trained / "bundle", phantoms, split="validation", out=tmp_path / "results", options=options)
    assert here == []
    assert file == tmp_path / "results" / "report.html"
    assert [row[1] for row in read_report(file).table("class", "cases", "Dice %")] == ["2"]
    assert json.loads((tmp_path / "results" / "metrics.json").read_text())["context"]["split"] == "validation"


def test_a_datalist_of_ones_own_where_results_go_stays(trained, phantoms, tmp_path):
    own = tmp_path / "out" / "datalist.json"
    own.parent.mkdir()
    own.write_text("mine")
    scans = tmp_path / "scans"
    labelled = sorted(file.name for file in (phantoms / "labels").iterdir())[0]
    for part in ("images", "labels"):
        (scans / part).mkdir(parents=True)
        shutil.copy(phantoms / part / labelled, scans / part)
    for file in (scans / "images").iterdir():  # another scan than those of the training
        image = nib.load(file)
        nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32)[::-1] + 1, image.affine), file)
    evaluate(trained / "bundle", scans, out=own.parent, options=OPTIONS | {"predictor": "a"})
    assert own.read_text() == "mine"
    assert (own.parent / "scans" / "datalist.json").is_file()


def test_two_datasets_of_one_name_keep_their_results_apart(trained, phantoms, tmp_path, capsys):
    def run(command, **_):
        flags = flags_of(command)
        content = {"context": {"data": flags["--evaluation#context#data"]}}
        (Path(flags["--output_dir"]) / "metrics.json").write_text(json.dumps(content))
        return ended(0)

    lists = [tmp_path / folder / "datalist.json" for folder in ("a", "b", "c/a")]
    content = json.loads((phantoms / "datalist.json").read_text())
    with (
        patch("aps_components.report.evaluate.start", run),
        patch("aps_components.report.evaluate.write_evaluation_report", lambda folder, **_: folder / "report.html"),
        patch("aps_components.report.evaluate.Evaluated.read", return_value=None),
    ):
        places = []
        for file in lists:
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(content))
            places.append(evaluate(trained, file).parent)
        assert [place.relative_to(trained / "evaluation").as_posix() for place in places] == ["a", "b", "a_2"]
        said = f"Note: {places[0]} holds figures of other data; those of {lists[2].parent} go to {places[2]}\n"
        assert said in capsys.readouterr().out
        assert [evaluate(trained, file.parent).parent for file in lists] == places
        lists[1].rename(tmp_path / "b" / "split.json")
        assert evaluate(trained, tmp_path / "b" / "split.json").parent == trained / "evaluation" / "split"


def test_what_monai_says_of_its_own_command_is_left_out(trained, phantoms, capsys):
    of_monai = [b"2026-11-30 16:19:28,524 - INFO - > run_id: 'evaluating'\n", b"2026-11-30 16:19:28,524 - INFO - ---\n"]
    of_ours = [b"Note: case_3 has no label\n", "caf\u00e9.nii.gz: 2026-11-30 - INFO\n".encode()]
    said = [of_monai[0], of_ours[0], of_monai[1], of_ours[1]]
    with (
        patch("aps_components.report.evaluate.start", return_value=ended(1, said)),
        pytest.raises(EvaluationFailed),
    ):
        evaluate(trained, phantoms)
    assert capsys.readouterr().out.endswith("".join(line.decode() for line in of_ours))


def test_scans_are_looked_for_by_what_the_model_says_of_itself(trained, phantoms):
    with (
        patch("aps_components.report.evaluate.dataset_to_judge", side_effect=DataError("seen")) as look,
        pytest.raises(DataError, match="seen"),
    ):
        evaluate(trained, phantoms, options={"label_values": {"4": 1}})
    given = look.call_args.kwargs
    assert given["cases"] == case_identities(load_datalist(phantoms).training_items, load_datalist(phantoms).validation)
    assert (given["labels"], given["label_values"]) == ({"0": "background", "1": "left atrium"}, {"4": 1})


def test_what_is_no_dataset_leaves_no_folder(trained, phantoms):
    scan = next((phantoms / "images").iterdir())
    with pytest.raises(DataError, match="no datalist"):
        evaluate(trained, scan)
    assert not (trained / "evaluation").exists()


def test_a_bundle_of_the_installed_package_keeps_no_results(trained, phantoms, tmp_path, monkeypatch):
    """Nothing is written into the environment: results go where the command was called."""
    (tmp_path / "site").mkdir()
    shutil.move(trained / "bundle", tmp_path / "site" / "la")
    monkeypatch.setattr("aps_components.report.evaluate.SHIPPED_BUNDLES", tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in (tmp_path / "site" / "la").iterdir())
    with (
        patch("aps_components.report.evaluate.start", return_value=ended(1)),
        pytest.raises(EvaluationFailed),
    ):
        evaluate(tmp_path / "site" / "la", phantoms)
    assert (tmp_path / "evaluation" / phantoms.name).is_dir()
    assert sorted(path.name for path in (tmp_path / "site" / "la").iterdir()) == before


def test_figures_of_before_are_not_taken_for_those_of_a_run_that_failed(trained, phantoms, tmp_path, here):
    with patch("aps_components.report.evaluate.start", return_value=ended(0)):
        folder = trained / "evaluation" / phantoms.name
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"context": {"data": str(phantoms)}}))
        with pytest.raises(EvaluationFailed):
            evaluate(trained, phantoms)


def test_what_cannot_be_is_said_before_anything_runs(trained, phantoms, tmp_path):
    with patch("aps_components.report.evaluate.start") as run:
        with pytest.raises(ValueError, match="split 'tset' must be one of"):
            evaluate(trained, phantoms, split="tset")
        mends = {"dataset_dir": "name the scans", "output_dir": "give --out", "evaluation#context#data": "leave it out"}
        for option, mend in mends.items():
            with pytest.raises(ValueError, match=rf"--{option} 'x' has no effect here: {mend}"):
                evaluate(trained, phantoms, options={option: "x"})
        with pytest.raises(FileNotFoundError, match="no bundle 'nothing'"):
            evaluate("nothing", phantoms)
        (trained / "bundle" / "models" / "model.pt").unlink()
        with pytest.raises(FileNotFoundError, match="has no weights"):
            evaluate(trained, phantoms)
    run.assert_not_called()


@pytest.mark.slow
def test_the_command_ends_with_the_reports_place_or_with_the_bundles_own_words(trained, phantoms, capfd, monkeypatch):
    arguments = [
        "aps",
        "evaluate",
        str(trained),
        str(phantoms),
        *(f"--{key}={value}" for key, value in OPTIONS.items()),
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    cli.main()
    assert f"report: {trained / 'evaluation' / phantoms.name / 'report.html'}" in capfd.readouterr().out
    content = json.loads((phantoms / "datalist.json").read_text())
    content["test"] += [entry for entry in content["training"] if "label" in entry][:1]
    content["training"] = []
    copy = shutil.copytree(phantoms, trained / "copy")
    (copy / "datalist.json").write_text(json.dumps(content))
    monkeypatch.setattr(sys, "argv", [*arguments[:3], str(copy), *arguments[4:]])
    with pytest.raises(SystemExit):
        cli.main()
    assert "was trained on 1 of the 3 test scans" in capfd.readouterr().err
