"""What is behind an error: ours, a full disk, Ctrl-C."""

import errno
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from aps_components.data import DataError, nifti
from aps_components.data.label_values import parsed_label_values
from aps_components.data.preparation import volumes
from aps_components.errors import (
    MENDS,
    chain,
    in_a_line,
    interrupted,
    keep_traceback,
    plain_errors,
    plainly,
    root_cause,
    storage_fault,
)
from aps_components.models import read_checkpoint
from aps_components.segmentation import dicom_frames

ROOT = Path(__file__).parents[1]


def handled(first, *, then):
    """The second error, which arose while the first was handled."""
    try:
        try:
            raise first
        except BaseException:
            raise then  # noqa: B904
    except BaseException as error:
        return error


def ours():
    try:
        parsed_label_values({"x": "y"})
    except ValueError as error:
        return error
    raise AssertionError


def test_an_error_of_ours_counts_though_another_arose_on_top_of_it():
    """As where a library's clean-up fails because ours broke it off: its error has ours as context, not as cause."""
    mine = ours()
    assert root_cause(handled(mine, then=RuntimeError("engine is terminating"))) is mine
    outer = handled(handled(mine, then=KeyError("state")), then=RuntimeError("run failed"))
    assert root_cause(outer) is mine


def test_what_was_handled_and_is_of_others_is_no_cause():
    outer = handled(KeyError("cache miss"), then=ValueError("no such scan"))
    assert root_cause(outer) is outer
    suppressed = handled(OSError(errno.ENOSPC, "full"), then=ValueError("plain"))
    suppressed.__suppress_context__ = True  # as "from None" does
    assert root_cause(suppressed) is suppressed


def test_a_ring_of_errors_ends():
    one, other = ValueError("one"), ValueError("other")
    one.__context__, other.__context__ = other, one
    assert len(chain(one)) == 2
    assert root_cause(one) is one


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_found_behind_what_libraries_say(code):
    full = OSError(code, os.strerror(code))
    said = f"cannot find a suitable writer\n Traceback\nOSError: [Errno {code}] {os.strerror(code)}"
    for error in (full, handled(full, then=RuntimeError("unexpected pos 10 vs 5")), RuntimeError(said)):
        assert storage_fault(error).errno == code
        assert os.strerror(code) in plainly(error)
        assert "free some space" in plainly(error)
    assert storage_fault(OSError(errno.ENOENT, "no such file")) is None


def test_ctrl_c_behind_an_error_stays_ctrl_c():
    error = handled(KeyboardInterrupt(), then=RuntimeError("unexpected pos 10 vs 5"))
    assert interrupted(error)
    assert not interrupted(ValueError())
    with pytest.raises(KeyboardInterrupt), plain_errors():
        raise error


def test_a_message_can_move_no_cursor():
    assert plainly(DataError("a\x1b[2J\x07.nii.gz: no such file")) == "DataError: a\\x1b[2J\\x07.nii.gz: no such file"


SCRIPT = """
import logging, sys
logging.basicConfig()
from aps_components.errors import explain_errors
explain_errors()
logging.getLogger("ignite.engine.engine.Engine").error("Engine run is terminating due to exception")
logging.getLogger("monai.transforms.transform").error("=== Transform input info ===\\n" * 30)
{end}
"""
INTERRUPTED = """
try:
    raise KeyboardInterrupt
except KeyboardInterrupt:
    raise RuntimeError("unexpected pos 10 vs 5")
"""


def run(end, **environ):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(end=end)],
        env={"PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_user_meets_a_line_and_the_place_of_the_rest():
    done = run("raise ValueError('a\\x1b[2J.nii.gz: no such file')")
    place, line = done.stderr.strip().splitlines()
    assert line == "ValueError: a\\x1b[2J.nii.gz: no such file"
    file = Path(place.removeprefix("(traceback: ").partition(";")[0])
    assert file.stat().st_mode & 0o077 == 0
    file.unlink()


def test_the_rest_is_shown_where_one_asks_for_it():
    done = run("raise ValueError('a')", APS_TRACEBACK="1")
    assert "Transform input info" in done.stderr
    assert "Traceback" in done.stderr


def test_ctrl_c_while_saving_is_no_failure_of_the_disk():
    done = run(INTERRUPTED)
    assert done.returncode == 130
    assert "unexpected pos" not in done.stderr


@pytest.mark.parametrize("code", [errno.EACCES, errno.EMFILE, errno.EIO])
@pytest.mark.parametrize("reader", ["nifti", "checkpoint", "nrrd", "dicom"])
def test_a_file_that_the_system_does_not_give_is_not_called_damaged(reader, code, tmp_path, monkeypatch):
    file = tmp_path / f"scan.{reader}"
    file.write_bytes(b"x" * 400)

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code), str(file))

    if reader == "nifti":
        monkeypatch.setattr("aps_components.data.nifti._opened", refuse)
        read = partial(nifti.read_header, file)
    elif reader == "checkpoint":
        monkeypatch.setattr(torch, "load", refuse)
        read = partial(read_checkpoint, file)
    elif reader == "nrrd":
        monkeypatch.setattr(pytest.importorskip("nrrd"), "read", refuse)
        read = partial(volumes.read_nrrd, str(file), default_spacing=1.0)
    else:
        monkeypatch.setattr(pytest.importorskip("pydicom"), "dcmread", refuse)
        read = partial(dicom_frames.read_header, str(file))
    with pytest.raises(ValueError, match=re.escape(f"{file}: {os.strerror(code)}; ")) as error:
        read()
    assert "damaged" not in str(error.value)
    assert MENDS[code] in str(error.value)


def test_a_name_with_a_line_break_leaves_one_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["aps", "train", "new\nline", "--out=other\rname"])
    said = plainly(ValueError("/data/new\nline: no such folder, nor /data/other\rname"))
    assert len(said.splitlines()) == 1
    assert "new\\nline" in said
    assert "other\\rname" in said
    assert len(plainly(ValueError("2 faults:\none\nother")).splitlines()) == 3


def test_what_is_meant_for_a_user_has_no_traceback(capsys):
    denied = PermissionError(errno.EACCES, "Permission denied", "/data/scan.nii.gz")
    keep_traceback(denied, always=False)
    assert capsys.readouterr().err == ""
    assert plainly(denied) == f"PermissionError: /data/scan.nii.gz: Permission denied; {MENDS[errno.EACCES]}"
    assert in_a_line(denied) == plainly(denied).removeprefix("PermissionError: ")
    assert in_a_line(KeyError("a")) == "KeyError: 'a'"
    keep_traceback(KeyError("a"), always=False)
    assert "traceback:" in capsys.readouterr().err


def test_an_error_does_not_stand_behind_a_bar(capsys):
    bar = tqdm(total=3, desc="loading", file=sys.stderr)
    bar.update()
    keep_traceback(ours(), always=False)
    assert capsys.readouterr().err.endswith("\n")
