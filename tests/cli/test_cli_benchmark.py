import sys
from unittest.mock import patch

import pytest

from aps_components import cli
from aps_components.studies.speed import grid


def aps(*arguments):
    with patch.object(sys, "argv", ["aps", *map(str, arguments)]):
        cli.main()


REQUIRED = ("--bundle=la", "--dataset_dir=DIR", "--checkpoint=model.pt", "--out=OUT")


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ((), {}),
        (("--overlaps=0.5", "--batches=2"), {"overlaps": [0.5], "batches": [2]}),
        (("--blendings=constant", "--predictors=b,a"), {"blendings": ["constant"], "predictors": ["b", "a"]}),
        (("--whole", "true"), {"whole": True}),
    ],
)
def test_settings_are_those_named(tmp_path, options, changes):
    everything = {
        "overlaps": [0, 0.25, 0.5, 0.625],
        "batches": [1, 2, 4],
        "blendings": ["gaussian", "constant"],
        "predictors": ["average", "a"],
    }
    (tmp_path / "table.md").write_text("the table")
    with patch("aps_components.studies.speed.benchmark", return_value=tmp_path / "table.md") as measure:
        aps("benchmark", *REQUIRED, *options)
    assert measure.call_args.kwargs["settings"] == grid(**everything | changes)


def test_other_arguments_reach_the_function(tmp_path, capsys):
    (tmp_path / "table.md").write_text("the table")
    with patch("aps_components.studies.speed.benchmark", return_value=tmp_path / "table.md") as measure:
        aps("benchmark", *REQUIRED, "--cases=3", "--reference_cases=1", "--split=test", "--precision=fp32")
    asked = measure.call_args.kwargs
    assert asked["options"] == {"precision": "fp32"}
    assert (asked["cases"], asked["reference_cases"], asked["split"], asked["seed"]) == (3, 1, "test", 0)
    assert "the table" in capsys.readouterr().out


def test_errors_are_one_line():
    with pytest.raises(SystemExit) as error:
        aps("benchmark", *REQUIRED, "--overlaps=1.5")
    assert str(error.value) == "ValueError: overlaps 1.5 must be a number in [0, 1)"
