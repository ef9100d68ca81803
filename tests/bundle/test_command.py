import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from workflows import LA

from aps_components.bundle import workflow_command


def test_one_file_is_given_by_itself_and_several_as_a_list():
    one = workflow_command(LA, "inference", ["inference.json"])
    assert one[:5] == [sys.executable, "-m", "monai.bundle", "run", "inference"]
    assert one[5:] == ["--config_file", str(LA / "configs" / "inference.json"), "--bundle_root", str(LA)]
    two = workflow_command(LA, "evaluating", ["train.json", "evaluate.json"])
    assert two[6] == str([str(LA / "configs" / name) for name in ("train.json", "evaluate.json")])


@pytest.mark.parametrize(
    ("value", "typed"),
    [(None, "$None"), ("text", "text"), (Path("a/b"), "a/b"), ([1.5, 2], "[1.5, 2]"), (True, "True"), (3, "3")],
)
def test_values_are_written_as_the_configuration_reads_them(value, typed):
    command = workflow_command("b", "training", ["train.json"], {"key": value})
    assert command[-2:] == ["--key", typed]
    if value is None:
        parser = ConfigParser({"key": typed})
        assert parser.get_parsed_content("key") is None
