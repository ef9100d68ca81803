"""The benchmarks whose patches or scans can be small run, and print their tables."""

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
            [*SMALLEST, "--repeats", "1", "--precisions", "fp32", "--threads", "1"],
            ["AutoPromptSeg, network", "AutoPromptSeg, whole step", "V-Net alone", "MONAI DynUNet"],
        ),
        (
            "large_scan",
            ["--sizes", "40,48,24", "--threads", "1"],
            ["read", "windows and blending", "invert", "largest components", "write", "statistics", "picture", "all"],
        ),
        (
            "many_scans",
            ["--scans", "20", "--size", "60,64,48", "--iterations", "2"],
            ["memory", "disk", "disk again", "neither"],
        ),
        (
            "scans_a_minute",
            ["--scans", "2", "--size", "40,48,24", "--threads", "1", "--repeats", "1"],
            ["one after another", "read ahead, written behind"],
        ),
    ],
)
def test_a_benchmark_prints_its_table(script, options, rows):
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for row in rows:
        assert any(line.startswith(f"| {row} |") for line in lines), done.stdout


def test_the_stages_of_a_large_scan_are_where_the_benchmark_looks(benchmark):
    class Watch:
        def wrap(self, owner, attribute, name, *, opaque=True):
            assert callable(getattr(owner, attribute)), name

    benchmark("large_scan").watch_stages(Watch())
