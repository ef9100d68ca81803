import csv
import io
import math

import pytest

from aps_components.studies.speed import REFERENCE, Comparison, Line, Setting
from aps_components.studies.speed.table import comma_separated, markdown, write_table

CONTEXT = {
    "split": "validation",
    "dataset": "made up",
    "roi_size": [32, 48, 16],
    "precision": "bf16",
    "device": "cpu",
    "threads": 2,
    "torch": "2.0",
}


def line(setting, **scans):
    """``case=(seconds, dice)``."""
    return Line(
        setting=setting,
        scans={name: {"seconds": seconds, "dice": dice, "windows": 4} for name, (seconds, dice) in scans.items()},
    )


REFERENCE_LINE = line(REFERENCE, one=(60.0, 0.9), two=(40.0, 0.8))
GOOD = line(Setting(overlap=0.5, predictor="a"), one=(2.0, 0.899), two=(3.0, 0.8), three=(40.0, 0.2))
FASTER = line(Setting(overlap=0.0, predictor="a"), one=(1.0, 0.89), two=(1.0, 0.8), three=(1.0, 0.9))
SLOWER = line(Setting(overlap=0.5, batch=4, blending="constant"), one=(20.0, 0.95), two=(20.0, 0.95), three=(1.0, 0.9))
LINES = [GOOD, FASTER, SLOWER, REFERENCE_LINE]


def test_the_reference_is_compared_on_its_own_scans():
    """The third scan counts for neither."""
    found = Comparison.of(GOOD, REFERENCE_LINE)
    assert (found.speed, found.dice) == (20, pytest.approx(-0.05))


def test_table_has_the_means_of_all_scans_and_what_is_best():
    text = markdown(LINES, context=CONTEXT)
    assert text.startswith("3 scans of the validation part of made up, the reference on 2 of them; window 32 x 48 x 16")
    assert "| a | overlap 0.5 | gaussian | 1 | 4.0 | 15.00 | 63.30 | -0.05 | 20.0 |" in text
    assert "| average | reference | constant | 1 | 4.0 | 50.00 | 85.00 | +0.00 | 1.0 |" in text
    # The faster one loses 0.5.
    assert (
        "Fastest within 0.1 Dice of the reference: predictor a, overlap 0.5, gaussian blending, batch 1: 20.0" in text
    )


def test_without_a_reference_nothing_is_compared():
    text = markdown([GOOD], context=CONTEXT | {"threads": None})
    assert "| a | overlap 0.5 | gaussian | 1 | 4.0 | 15.00 | 63.30 | - | - |" in text
    assert "Without the reference nothing is compared." in text


def test_what_a_gpu_has_no_memory_for_is_a_dash_and_never_best():
    too_large = line(Setting(overlap=None, blending="constant"), one=(math.nan, math.nan), two=(1.0, 0.9))
    text = markdown([too_large, REFERENCE_LINE], context=CONTEXT)
    assert "| average | whole scan | constant | 1 | 4.0 | - | - | - | - |" in text
    assert "No setting comes within 0.1 Dice" in text


def test_every_figure_is_in_the_csv():
    rows = list(csv.DictReader(io.StringIO(comma_separated(LINES))))
    assert len(rows) == 11
    assert rows[1] == {
        "predictor": "a",
        "window": "overlap 0.5",
        "blending": "gaussian",
        "batch": "1",
        "scan": "two",
        "windows": "4",
        "seconds": "3.0000",
        "dice": "0.800000",
    }


@pytest.mark.parametrize("lines", [LINES, [GOOD]])
def test_files_are_written(tmp_path, lines):
    assert write_table(tmp_path, lines, context=CONTEXT) == tmp_path / "table.md"
    assert (tmp_path / "speed.png").stat().st_size > 10_000
    assert (tmp_path / "table.csv").is_file()
