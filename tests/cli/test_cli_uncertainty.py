import sys
from unittest.mock import patch

import pytest

from aps_components import cli


def aps(*arguments):
    with patch.object(sys, "argv", ["aps", *map(str, arguments)]):
        cli.main()


REQUIRED = ("--bundle=la", "--dataset_dir=2024_01", "--checkpoint=a/model.pt,b/model.pt", "--out=7")


def test_arguments_reach_the_function(capsys):
    with patch("aps_components.studies.uncertainty.check_uncertainty", return_value="7/report.md") as check:
        aps("uncertainty", *REQUIRED, "--noise=0.5", "--cases=3", "--mc_samples=8")
    asked = check.call_args.kwargs
    assert asked.pop("bundle").name == "la"
    assert asked == {
        "dataset_dir": "2024_01",
        "checkpoints": ["a/model.pt", "b/model.pt"],
        "out": "7",
        "split": "validation",
        "noises": [0.5],
        "band_mm": 10.0,
        "cases": 3,
        "seed": 0,
        "options": {"mc_samples": 8},
    }
    assert capsys.readouterr().out.startswith("written: 7/report.md")


def test_noise_is_a_list():
    with patch("aps_components.studies.uncertainty.check_uncertainty") as check:
        aps("uncertainty", *REQUIRED, "--noise=0,0.1,0.2")
    assert tuple(check.call_args.kwargs["noises"]) == (0, 0.1, 0.2)


def test_errors_are_one_line(tmp_path):
    with pytest.raises(SystemExit) as error:
        aps("uncertainty", "--bundle=la", f"--dataset_dir={tmp_path}", "--checkpoint=no.pt", f"--out={tmp_path}")
    assert str(error.value).startswith("CheckpointError: no checkpoint at ")
    assert "\n" not in str(error.value)
