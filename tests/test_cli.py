import inspect
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import nibabel as nib
import pytest

from aps_components import cli
from aps_components.bundle.new import new_bundle
from aps_components.data import load_datalist
from aps_components.data.errors import DataError
from aps_components.data.preparation import prepare
from aps_components.errors import root_cause

ROOT = Path(__file__).parents[1]


def aps(*arguments):
    with patch.object(sys, "argv", ["aps", *map(str, arguments)]):
        cli.main()


def test_it_says_which_version_it_is(capsys):
    aps("--version")
    assert re.fullmatch(r"aps \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_phantoms_writes_scans_and_a_datalist(tmp_path, capsys):
    aps("phantoms", tmp_path / "data", "--labeled=1", "--unlabeled=1", "--validation=0", "--test=0", "--seed=3")
    assert capsys.readouterr().out.strip() == str(tmp_path / "data" / "datalist.json")
    datalist = load_datalist(tmp_path / "data")
    assert [len(part) for part in (datalist.labeled, datalist.unlabeled, datalist.validation)] == [1, 1, 0]
    assert nib.load(datalist.labeled[0]["image"]).shape == nib.load(datalist.labeled[0]["label"]).shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("demo", "--bundle", "{folder}/none"), "FileNotFoundError: {folder}/none: no such bundle; give the folder"),
        (
            ("phantoms", "{folder}", "--labeled=-1"),
            "ValueError: number of training cases -1 must be",
        ),
        (("overview", "{folder}/a.nii.gz", "{folder}"), "FileNotFoundError: {folder}/a_seg.nii.gz is missing"),
    ],
)
def test_errors_are_one_plain_line(tmp_path, arguments, message):
    with pytest.raises(SystemExit) as error:
        aps(*(argument.format(folder=tmp_path) for argument in arguments))
    assert str(error.value).startswith(message.format(folder=tmp_path))
    assert "\n" not in str(error.value)


def test_overview_takes_its_arguments(tmp_path, capsys):
    with patch("aps_components.evaluation.overview_from_files", return_value="there.png") as draw:
        aps("overview", tmp_path / "scan.nii.gz", tmp_path, "--path=there.png", "--truth=truth.nii.gz")
    draw.assert_called_once_with(
        "there.png", image=str(tmp_path / "scan.nii.gz"), output_dir=str(tmp_path), truth="truth.nii.gz"
    )
    assert capsys.readouterr().out.strip() == "there.png"


def test_prepare_and_new_bundle_hand_everything_on(tmp_path):
    """Every argument of the functions behind them has an option, and reaches them under its name."""
    with patch("aps_components.data.preparation.prepare") as prepare:
        aps("prepare", "la", "--raw", tmp_path, "--out", tmp_path / "out", "--labeled=3", "--crop=none", "--seed=2")
    asked = prepare.call_args
    assert asked.args == ("la",)
    given = {"raw": str(tmp_path), "out": str(tmp_path / "out"), "labeled": 3, "crop": "none", "seed": 2}
    assert {name: value for name, value in asked.kwargs.items() if value is not None} == given
    with patch("aps_components.bundle.new.new_bundle") as new_bundle:
        aps("new-bundle", "mine", "--data", tmp_path, "--out", tmp_path / "b", "--roi_size=[32,48,32]", "--budget=cpu")
    asked = new_bundle.call_args
    assert asked.args == ("mine",)
    given = {"data": str(tmp_path), "out": str(tmp_path / "b"), "roi_size": [32, 48, 32], "budget": "cpu", "seed": 0}
    assert {name: value for name, value in asked.kwargs.items() if value is not None} == given


@pytest.mark.parametrize(("command", "function"), [("prepare", prepare), ("new-bundle", new_bundle)])
def test_the_options_are_those_of_the_functions_behind_them(command, function):
    inner, outer = inspect.signature(function).parameters, inspect.signature(cli.COMMANDS[command]).parameters
    assert set(inner) - {"progress"} == set(outer)
    for name in outer:
        assert inner[name].default == outer[name].default, name


def test_ctrl_c_shows_no_traceback(tmp_path):
    with patch("aps_components.demo.run_demo", side_effect=KeyboardInterrupt), pytest.raises(SystemExit) as error:
        aps("demo", "--output_dir", tmp_path)
    assert error.value.code == 130


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("demo",), "stopped"),
        (("segment", "a.nii.gz", "out"), "stopped; the same command goes on from here"),
    ],
)
def test_ctrl_c_says_that_it_has_stopped_and_what_goes_on(words, said, capsys):
    with patch("aps_components.cli.fire.Fire", side_effect=KeyboardInterrupt), pytest.raises(SystemExit) as error:
        aps(*words)
    assert error.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("train", "data", "--ot", "out"),
            "aps train needs OUT: give it, or --out OUT, not --ot; aps train --help shows all",
        ),
        (("segment",), "aps segment needs INPUT: give it, or --input INPUT; aps segment --help shows all"),
    ],
)
def test_a_missing_argument_is_named_in_a_line(words, said, capsys):
    with pytest.raises(SystemExit) as error:
        aps(*words)
    assert error.value.code == 2
    assert capsys.readouterr().err.splitlines() == [said]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--foo", "there is no command '--foo'; there are: train"),
        ("trian", "there is no command 'trian'; did you mean train?"),
        ("xyz", "there is no command 'xyz'; there are: train, segment, evaluate"),
    ],
)
def test_an_unknown_command_is_named_in_a_line(word, said):
    with pytest.raises(SystemExit) as error:
        aps(word)
    assert str(error.value).startswith(said)


def test_demo_is_the_bundles_own(tmp_path):
    with patch("aps_components.demo.run_demo") as run:
        aps("demo", "--output_dir", tmp_path)
    run.assert_called_once_with(str(tmp_path), bundle=ROOT / "bundles" / "la", seed=0)


@pytest.mark.slow
def test_module_is_the_command(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "aps_components", "demo", "--bundle", "nowhere"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("FileNotFoundError: no bundle 'nowhere'")


def chain(*errors):
    """Each error raised from the next; the first is what Python would report."""
    cause = None
    for error in reversed(errors):
        try:
            raise error from cause
        except Exception as raised:
            cause = raised
    return cause


def test_root_cause_is_the_last_of_the_chain():
    assert root_cause(ValueError("alone")).args == ("alone",)
    assert root_cause(chain(RuntimeError("a"), RuntimeError("b"), KeyError("c"))).args == ("c",)


def test_root_cause_is_what_this_package_says_of_another_error(tmp_path):
    """The error of the library below names neither file nor mend."""
    (tmp_path / "datalist.json").write_text("{oops")
    with pytest.raises(DataError) as below:
        load_datalist(tmp_path)
    with pytest.raises(RuntimeError) as above:
        raise RuntimeError("Failed to evaluate ConfigExpression") from below.value
    assert root_cause(above.value) is below.value


SCRIPT = """
from aps_components.errors import explain_errors
explain_errors()
explain_errors()
try:
    raise ValueError("scan.nii.gz: no such file")
except ValueError as error:
    {after}
"""


@pytest.mark.parametrize(("after", "times"), [("raise RuntimeError('Failed to evaluate') from error", 1), ("raise", 0)])
def test_last_line_is_the_plain_cause(after, times):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(after=after)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    lines = result.stderr.strip().splitlines()
    assert lines[-1] == "ValueError: scan.nii.gz: no such file"
    assert len(lines) == 2  # and one that says where the traceback is
    file = Path(re.search(r"\(traceback: (.+?);", lines[0])[1])
    assert file.read_text().startswith("Traceback")
    assert ("Failed to evaluate" in file.read_text()) == bool(times)
    file.unlink()


def test_the_traceback_is_shown_where_one_asks_for_it():
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(after="raise")],
        env={"PYTHONPATH": str(ROOT), "APS_TRACEBACK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr.startswith("Traceback")
    assert result.stderr.strip().splitlines()[-1] == "ValueError: scan.nii.gz: no such file"
