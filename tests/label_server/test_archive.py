"""The datastore over an archive, in the environment with MONAI Label: the claims are those of ``archive_claims.py``."""

import os
import subprocess
from pathlib import Path

import pytest
from workflows import ROOT

HERE = Path(__file__).parent
# pytest is this environment's; what both have is MONAI Label's.
RUN = "import sys; sys.path.append(sys.argv.pop(1)); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
OPTIONS = (
    "-q",
    "--tb=short",
    "--noconftest",
    "-p",
    "no:cacheprovider",
    "-c",
    os.devnull,
    "-W",
    "error:::aps_components",
)


@pytest.mark.label_server
def test_the_datastore_over_an_archive(environment, tmp_path):
    packages = str(Path(pytest.__file__).parents[1])
    done = subprocess.run(
        [str(environment.python), "-c", RUN, packages, *OPTIONS, str(HERE / "archive_claims.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "segmentation")])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
