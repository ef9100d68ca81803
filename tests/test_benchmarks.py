"""The benchmarks whose patches can be small run, and print their tables."""

import subprocess
import sys

import pytest
from workflows import ROOT

SMALLEST = {
    "train_step": ["--roi", "32", "16", "16", "--repeats", "1", "--precisions", "fp32", "--threads", "1"],
    "mask_decoder": ["--roi", "32", "16", "16", "--class-counts", "2"],
}
ROWS = {
    "train_step": ["AutoPromptSeg, network", "AutoPromptSeg, whole step", "V-Net alone", "MONAI DynUNet"],
    "mask_decoder": ["decoder", "upsampled", "full-size decoder"],
}


@pytest.mark.slow
@pytest.mark.parametrize("script", SMALLEST)
def test_a_benchmark_prints_its_table(script):
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *SMALLEST[script]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for row in ROWS[script]:
        assert any(line.startswith(f"| {row} |") for line in lines), done.stdout
