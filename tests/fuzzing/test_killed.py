"""Two commands, killed and on full disks; all of them by ``make killed``."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("command", ["segment", "prepare"])
def test_a_killed_command_goes_on(tmp_path, command):
    script = Path(__file__).with_name("killed.py")
    arguments = ["--command", command, "--kills", "3", "--no_disks", "--keep", str(tmp_path)]
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
