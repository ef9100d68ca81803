"""The benchmarks whose patches can be small run, and print their tables."""

import subprocess
import sys

import pytest
from workflows import ROOT

SMALLEST = ["--roi", "32", "16", "16"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "rows"),
    [
        (
            "train_step",
            ["--repeats", "1", "--precisions", "fp32", "--threads", "1"],
            ["AutoPromptSeg, network", "AutoPromptSeg, whole step", "V-Net alone", "MONAI DynUNet"],
        ),
    ],
)
def test_a_benchmark_prints_its_table(script, options, rows):
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *SMALLEST, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for row in rows:
        assert any(line.startswith(f"| {row} |") for line in lines), done.stdout
