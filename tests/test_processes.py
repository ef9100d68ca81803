"""What a process started ends with it, also where it is killed outright."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from aps_components.processes import CommandFailedError, CommandStopped, cores, run_logged

ROOT = Path(__file__).parents[1]
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT)}

PARENT = """
import sys
from aps_components.processes import start
child = start([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
child.wait()
"""
IN_A_THREAD = """
import sys, threading
from aps_components.processes import start
def work():
    child = start([sys.executable, "-c", "import time; time.sleep(60)"])
    print(child.pid, flush=True)
    child.wait()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
SERVER = """
import subprocess, sys, time
from aps_components.processes import end_with_pipe
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(0, flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
end_with_pipe(sys.stdin.buffer, seconds=0.2)
time.sleep(60)
"""


def runs(process):
    """Whether it is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ended(process, seconds=15):
    deadline = time.monotonic() + seconds
    while runs(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not runs(process)


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@linux
@pytest.mark.parametrize("code", [PARENT, IN_A_THREAD])
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_killed_parent_leaves_nothing_running(code, sign):
    parent = subprocess.Popen([sys.executable, "-c", code], env=ENVIRON, stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    assert runs(child)
    parent.send_signal(sign)
    parent.wait()
    assert ended(child)


@linux
def test_the_group_of_a_server_ends_when_its_pipe_does():
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=ENVIRON,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    training = int(server.stdout.readline())
    assert runs(training)
    server.stdin.close()
    assert server.wait(20) != 0
    assert ended(training)


def test_output_and_exit_status_are_those_of_the_command():
    code = (
        "import sys; from aps_components.processes import start\n"
        "child = start([sys.executable, '-c', 'import sys; print(sys.argv[1:]); sys.exit(7)', 'a b', '--c=d'])\n"
        "sys.exit(child.wait())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRON, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (7, "['a b', '--c=d']")


def test_a_signal_reaches_the_command():
    code = (
        "import signal, sys, time; from aps_components.processes import start\n"
        "child = start([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "time.sleep(0.5); child.terminate(); print(child.wait())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRON, capture_output=True, text=True, check=False)
    assert int(done.stdout) == -signal.SIGTERM


def test_a_logged_command_says_its_last_line_and_its_threads(tmp_path):
    log, never = tmp_path / "logs" / "a.log", threading.Event()
    looks = []
    show = "import os; print(os.environ['OMP_NUM_THREADS'])"
    run_logged([sys.executable, "-c", show], log=log, stop=never, threads=3, look=lambda: looks.append(1), seconds=0.05)
    assert log.read_text() == "3\n"
    assert looks
    with pytest.raises(CommandFailedError, match=rf"^ValueError: this \(all of it: {log}\)$"):
        run_logged([sys.executable, "-c", "raise ValueError('this')"], log=log, stop=never)
    assert log.read_text().startswith("3\n")  # what an earlier call said stays


def test_a_logged_command_is_stopped(tmp_path):
    stop = threading.Event()
    stop.set()
    with pytest.raises(CommandStopped):
        run_logged([sys.executable, "-c", "import time; time.sleep(60)"], log=tmp_path / "a.log", stop=stop)


def test_cores_are_at_most_the_threads_that_the_environment_allows(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    for asked, wanted in (("", 6), ("2", 2), ("9", 6), ("0", 6), ("many", 6)):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert cores() == wanted
