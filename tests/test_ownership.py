import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from aps_components import ownership
from aps_components.ownership import FolderInUseError, alone_in, own, release, replacing_together

ROOT = Path(__file__).parents[1]
OWNER = """
import sys, time
from aps_components.ownership import own
own(sys.argv[1])
print("owns", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process that owns the folder."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, env=environ)
    assert process.stdout.readline() == b"owns\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_in_a_line_that_names_folder_and_process(other, tmp_path):
    with pytest.raises(FolderInUseError, match=re.escape(str(tmp_path))) as error:
        own(tmp_path)
    if sys.platform.startswith("linux"):
        assert f"process {other.pid} " in str(error.value)
    assert "\n" not in str(error.value)
    (tmp_path / "inner").mkdir()
    with alone_in(tmp_path / "inner"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]  # and nothing is left of it


def test_another_path_to_the_folder_is_the_same_folder(other, tmp_path):
    link = tmp_path.with_name(f"{tmp_path.name}_link")
    link.symlink_to(tmp_path)
    for place in (link, tmp_path / "x" / "..", f"{tmp_path}/"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(FolderInUseError):
            own(place)


def test_what_a_killed_process_held_is_free(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()
    with alone_in(tmp_path):
        pass


def test_the_same_process_may_come_twice(tmp_path):
    own(tmp_path)
    own(tmp_path)
    release(tmp_path)
    release(tmp_path)


def test_a_folder_that_is_owned_already_stays_so(tmp_path):
    """A part of the work that asks for it, too, does not let others in."""
    code = f"from aps_components.ownership import own; own({str(tmp_path)!r})"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with alone_in(tmp_path):
        with alone_in(tmp_path):
            pass
        run = subprocess.run([sys.executable, "-c", code], env=environ, check=False, capture_output=True, text=True)
    assert f"process {os.getpid()}" in run.stderr


def write_pair(folder, word):
    """Of a model and its settings, say."""
    with replacing_together(folder / "b.json", folder / "b.pt") as pair:
        for file in pair:
            file.write_text(word)


def contents(folder):
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_files_that_belong_together_are_replaced_together_or_not_at_all(other, tmp_path, monkeypatch):
    other.send_signal(signal.SIGSTOP)  # in the middle of its own
    (tmp_path / "b.pt").write_text("theirs")
    monkeypatch.setattr(ownership, "PATIENCE", 0.2)
    with pytest.raises(FolderInUseError, match=re.escape(str(tmp_path))):
        write_pair(tmp_path, "mine")
    assert contents(tmp_path) == {"b.pt": "theirs"}


def test_who_writes_such_files_waits_for_another_that_is_done_soon(other, tmp_path):
    threading.Timer(0.3, other.kill).start()
    write_pair(tmp_path, "mine")
    assert contents(tmp_path) == {"b.pt": "mine", "b.json": "mine"}


def test_a_fault_while_writing_leaves_both_as_they_were(tmp_path):
    write_pair(tmp_path, "first")
    with pytest.raises(UnicodeEncodeError):
        write_pair(tmp_path, "\ud800")
    assert contents(tmp_path) == {"b.pt": "first", "b.json": "first"}


def test_where_folders_cannot_be_locked_a_file_is(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "fcntl", None)
    with alone_in(tmp_path):
        monkeypatch.setattr(ownership, "_held", {})
        with pytest.raises(FolderInUseError, match="another process"):
            own(tmp_path)
        monkeypatch.undo()


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_worker_that_outlives_its_parent_owns_nothing(tmp_path):
    own(tmp_path)
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(20,), daemon=True)
    worker.start()
    try:
        release(tmp_path)
        code = f"from aps_components.ownership import own; own({str(tmp_path)!r})"
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        assert subprocess.run([sys.executable, "-c", code], env=environ, check=False).returncode == 0
    finally:
        worker.kill()
