"""What is behind an error: ours, a full disk, Ctrl-C."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aps_components.data import DataError
from aps_components.data.label_values import parsed_label_values
from aps_components.errors import chain, interrupted, plain_errors, plainly, root_cause, storage_fault

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
