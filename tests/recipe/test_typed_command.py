"""What a whole training says it can be repeated by."""

import pytest

from aps_components.recipe.journal import Journal, typed_command


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            ["aps", "train", "my scans", "--labels", "1:liver,2:tumour"],
            "aps train 'my scans' --labels 1:liver,2:tumour",
        ),
        (["/opt/aps_components/__main__.py", "train", "DATA", "--time", "4h"], "aps train DATA --time 4h"),
        (["pytest", "-q"], ""),
        (["script.py"], ""),
    ],
)
def test_the_command_as_it_was_typed(monkeypatch, typed, said):
    monkeypatch.setattr("sys.argv", typed)
    assert typed_command() == said


def test_the_commands_begin_with_it(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["aps", "train", "DATA", "--out", "OUT"])
    journal = Journal(tmp_path, {})
    journal.begin("first", ["/usr/bin/python", "-m", "monai.bundle", "run"])
    lines = (tmp_path / "commands.sh").read_text().splitlines()
    assert lines[1] == "# aps train DATA --out OUT"
    assert "python -m monai.bundle run" in lines
