import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aps_components.csv_table import comma_separated
from aps_components.segmentation.statistics import class_statistics, read_statistics, write_statistics, write_table
from aps_components.terminal import CURSOR_UP, UNREAD, guard_terminal, say, shown

ENVIRON = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}

STRANGE = [
    "\x1b[2Jcleared",
    "a\x07b",
    "\x9b31m",
    "gpj.\u202efdp",
    "a\rb\nc",
    "zero\u200bwidth",
    "\u2028",
    "\x7f",
    "\ud800",
]


@pytest.mark.parametrize("text", STRANGE)
def test_what_a_terminal_obeys_is_spelled_out_in_one_line(text):
    plain = shown(text)
    assert plain.isprintable()
    assert len(plain.splitlines()) == 1
    plain.encode("utf-8")


@pytest.mark.parametrize("text", ["scan 1.nii.gz", "Vorhof, größer", "左心房", "a\\x1b", "é"])
def test_letters_stay(text):
    assert shown(text) == text


def test_a_line_is_one_write_so_that_processes_do_not_mix_theirs(monkeypatch):
    class Terminal(io.StringIO):
        def write(self, text):
            written.append(text)
            return len(text)

    written = []
    monkeypatch.setattr(sys, "stdout", Terminal())
    guard_terminal()
    say("[1/4] Vorhof, größer  3 s")
    assert [text for text in written if text] == ["[1/4] Vorhof, größer  3 s\n"]


def test_all_that_is_printed_passes(monkeypatch):
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    handler = logging.StreamHandler(err)
    logger = logging.getLogger("test_terminal")
    logger.addHandler(handler)
    try:
        guard_terminal()
        guard_terminal()
        print("a\x1b[31m", "b\tc")
        sys.stderr.write("\n" + CURSOR_UP * 2)  # as tqdm does
        sys.stderr.write(f"x{CURSOR_UP}y")
        logger.warning("of \x1b]0;title\x07")
    finally:
        logger.removeHandler(handler)
    assert out.getvalue() == "a\\x1b[31m b\tc\n"
    assert err.getvalue() == f"\n{CURSOR_UP * 2}x\\x1b[Ayof \\x1b]0;title\\x07\n"


def test_a_letter_that_a_narrow_terminal_lacks_is_no_error(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    guard_terminal()
    print("größer \udcff", flush=True)
    assert out.buffer.getvalue() == b"gr\\xf6\\xdfer \\udcff\n"


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", " =1", "\uff1d1"])
def test_a_text_is_no_formula_in_a_table(text):
    (line,) = comma_separated([[text, -1.5, "-1.5", "plain"]]).splitlines()
    assert line.lstrip('"').startswith("'")
    assert line.endswith(",-1.5,-1.5,plain")


def test_names_of_scans_and_classes_are_none_either(tmp_path):
    entries = class_statistics(
        np.ones((2, 3, 5), np.uint8),
        {"=ct": np.ones((2, 3, 5))},
        voxel_ml=1.0,
        labels={0: "background", 1: "=HYPERLINK(1)"},
    )
    write_table(tmp_path / "a.csv", [{"scan": "@scan\x1b", "classes": entries}])
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[1].startswith("'@scan\\x1b,1,'=HYPERLINK(1),30,30.0")
    assert not any(cell.startswith(("=", "@")) for line in lines for cell in line.split(","))


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"classes": 3, "scan": "a"}',
        '{"scan": "a", "classes": [3]}',
        '{"scan": "a", "classes": [{"label": 1}]}',
    ],
)
def test_a_stray_file_of_statistics_is_none(tmp_path, content):
    (tmp_path / "a_statistics.json").write_text(content)
    assert read_statistics(tmp_path / "a_statistics.json") is None


def test_statistics_are_read_as_they_were_written(tmp_path):
    entries = class_statistics(np.zeros((2, 3, 5)), {"image": np.ones((2, 3, 5))}, voxel_ml=1.0, labels={1: "a"})
    write_statistics(tmp_path / "a.json", {"scan": "a", "classes": entries})
    assert read_statistics(tmp_path / "a.json") == json.loads((tmp_path / "a.json").read_text())


PRINTING = """
import sys
from aps_components.terminal import guard_terminal
guard_terminal()
for number in range(100_000):
    print("line", number, file=sys.stderr if "err" in sys.argv else sys.stdout)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal, no such status")
@pytest.mark.parametrize("stream", ["out", "err"])
def test_a_reader_that_ends_ends_what_prints_without_a_word(stream):
    read, write = os.pipe()
    options = {"stdout": write, "stderr": subprocess.PIPE} if stream == "out" else {"stderr": write}
    process = subprocess.Popen([sys.executable, "-c", PRINTING, stream], env=ENVIRON, **options)
    os.close(write)
    os.read(read, 10)
    os.close(read)
    said = process.communicate(timeout=60)[1] or b""
    assert (process.returncode, said) == (UNREAD, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="a shell closes no stream there")
def test_closed_streams_are_no_obstacle():
    command = [sys.executable, "-c", f"{PRINTING}\nprint(sys.stderr.isatty(), file=sys.stderr)"]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], env=ENVIRON, check=False)
    assert done.returncode == 0
