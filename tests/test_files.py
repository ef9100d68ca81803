import errno
import hashlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from aps_components.errors import root_cause
from aps_components.files import BLOCK, copy_folder, ensure_writable, real, replace_text, replacing, sha256_of
from aps_components.models import save_atomically, save_model

ENVIRON = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
KILLED = """
import os, signal, sys
from aps_components.files import replacing
with replacing(sys.argv[1]) as unfinished:
    unfinished.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_the_new_file_appears_when_all_of_it_is_there(tmp_path):
    file = tmp_path / "a.nii.gz"
    file.write_text("old")
    with replacing(file) as unfinished:
        assert unfinished.parent == tmp_path
        assert unfinished.name.endswith(".nii.gz")
        unfinished.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert names(tmp_path) == ["a.nii.gz"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "a.json"
    replace_text(file, "old ü")

    def stopped():
        with replacing(file) as unfinished:
            unfinished.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert file.read_text(encoding="utf-8") == "old ü"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_of_a_pipe_there_is_no_hash_to_wait_for(tmp_path):
    os.mkfifo(tmp_path / "a.nii.gz")
    with pytest.raises(FileExistsError, match=r"a\.nii\.gz is no regular file"):
        sha256_of(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("size", [0, 1, BLOCK, 2 * BLOCK + 7])
def test_sha256_of_a_file(tmp_path, size):
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "a").write_bytes(content[:size])
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content[:size]).hexdigest()


def test_two_that_write_the_same_file_leave_one_of_both(tmp_path):
    file = tmp_path / "a.pt"
    with replacing(file) as one:
        one.write_text("one")
        with replacing(file) as other:
            assert other != one
            other.write_text("other")
        assert file.read_text() == "other"
    assert file.read_text() == "one"
    assert names(tmp_path) == ["a.pt"]


def test_what_killed_processes_left_is_cleared_and_nothing_else(tmp_path):
    file = tmp_path / "a.nii.gz"
    done = subprocess.run([sys.executable, "-c", KILLED, str(file)], env=ENVIRON, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert left.endswith(".a.nii.gz")
    for other in (".unfinished.a.nii.gz", ".unfinished.0000-1-00000000.a.nii.gz", "b.a.nii.gz"):
        (tmp_path / other).touch()
    with replacing(file) as mine:
        mine.write_text("new")
        with replacing(tmp_path / "x.a.nii.gz") as also:  # another file of the same ending clears nothing of this one
            also.write_text("x")
        assert mine.exists()
    assert left not in names(tmp_path)
    assert len(names(tmp_path)) == 5


def test_a_long_name_is_no_obstacle(tmp_path):
    file = tmp_path / ("n" * 240 + ".nii.gz")
    replace_text(file, "a")
    assert names(tmp_path) == [file.name]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_named_whatever_a_library_makes_of_it(tmp_path, code):
    """As torch ("unexpected pos 5298560 vs 5298448") and MONAI's SaveImage ("cannot find a suitable writer") do."""

    def write(wrapped):
        with replacing(tmp_path / "a.pt") as unfinished:
            unfinished.write_text("half")
            try:
                raise OSError(code, os.strerror(code))
            except OSError:
                if wrapped:
                    raise RuntimeError("unexpected pos 5298560 vs 5298448")  # noqa: B904
                raise

    for wrapped in (True, False):
        with pytest.raises(OSError, match=re.escape(os.strerror(code))) as error:
            write(wrapped)
        assert error.value.errno == code
        assert str(tmp_path / "a.pt") in str(error.value)
    assert names(tmp_path) == []


def test_torch_on_a_disk_that_takes_no_more(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    save_atomically({"a": torch.zeros(10)}, tmp_path / "model.pt")
    old = (tmp_path / "model.pt").read_bytes()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        for _ in range(2):
            with pytest.raises(OSError, match=r"model\.pt: File too large; raise"):
                save_model({"a": torch.zeros(1 << 20)}, {"seed": 1}, tmp_path / "model.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "model.pt").read_bytes() == old
    assert names(tmp_path) == ["model.pt"]  # no settings without the weights


def test_ctrl_c_while_a_library_writes_is_ctrl_c(tmp_path):
    def write():
        with replacing(tmp_path / "a.pt") as unfinished:
            unfinished.write_text("half")
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                raise RuntimeError("unexpected pos 5298560 vs 5298448")  # noqa: B904

    with pytest.raises(KeyboardInterrupt):
        write()
    assert names(tmp_path) == []


def test_a_folder_is_copied_with_the_file_that_says_so_last(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "lib" / "__pycache__").mkdir(parents=True)
    for name in ("main.py", "lib/z.py", "lib/__pycache__/z.pyc", "zz.json"):
        (source / name).write_text(name)
    order = []
    with patch("aps_components.files.copy_whole", lambda file, path: order.append(str(path.relative_to(target)))):
        copy_folder(source, target, last="main.py")
    assert order == ["lib/z.py", "zz.json", "main.py"]
    copy_folder(source, target)
    assert {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()} == set(order)
    assert (target / "lib" / "z.py").read_text() == "lib/z.py"


def test_a_full_disk_that_no_writer_of_ours_met_names_its_file():
    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/out/a")
    except OSError as error:
        said = str(root_cause(error))
    assert "cannot write /data/out/a: No space left on device; free some space" in said


def odd_place(kind, folder):
    """A place into which nothing can be written."""
    place = folder / kind
    if kind == "loop":
        place.symlink_to(place)
    elif kind == "dangling":
        place.symlink_to(folder / "nowhere")
    elif kind == "file":
        place.write_text("x")
    else:
        os.mkfifo(place)
    return place


@pytest.mark.parametrize("kind", ["loop", "dangling", "file", "pipe"])
def test_a_folder_that_is_none_is_named(kind, tmp_path):
    place = odd_place(kind, tmp_path)
    for folder in (place, place / "inner"):
        with pytest.raises(PermissionError, match=re.escape(str(folder))) as error:
            ensure_writable(folder)
        assert len(str(error.value).splitlines()) == 1
    with pytest.raises(OSError, match=re.escape(str(place / "scores.json"))) as error:
        replace_text(place / "scores.json", "{}")
    assert error.value.filename == str(place / "scores.json")  # and not the hidden name that was tried
    assert [path.name for path in tmp_path.iterdir()] == [kind]


def test_links_that_lead_back_to_themselves_have_a_path(tmp_path):
    loop = odd_place("loop", tmp_path)
    assert real(loop) == loop
    (tmp_path / "link").symlink_to(tmp_path)
    assert real(tmp_path / "link" / "scan") == tmp_path / "scan"
