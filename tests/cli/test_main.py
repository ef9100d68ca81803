import os
import signal
import subprocess
import sys
import time

import pytest
from workflows import LA

# As `aps compare` does it, with a process that only sleeps in the place of a training.
COMMAND = """
import subprocess, sys
from pathlib import Path
from unittest.mock import patch
from aps_components import cli

def start(command, **options):
    process = real(["sleep", "60"], stdin=options.get("stdin"))
    Path("pid.tmp").write_text(str(process.pid))
    Path("pid.tmp").rename("pid")
    return process

real = subprocess.Popen
bundle, data = sys.argv[1:]
sys.argv = ["aps", "compare", data, "--bundle", bundle, "--labeled", "4", "--methods", "ours", "--out", "out"]
with patch("aps_components.processes.subprocess.Popen", start):
    cli.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without asking it")
@pytest.mark.slow
def test_kill_ends_the_trainings_too(phantoms, tmp_path):
    command = [sys.executable, "-c", COMMAND, str(LA), str(phantoms)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    training = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM, process.stderr.read()
    with pytest.raises(ProcessLookupError):
        os.kill(training, 0)
