"""What a wheel and a source archive take along of a clone in which somebody has worked; how a wheel works is in
test_wheel.py."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from workflows import ROOT

BUILD = "from setuptools.build_meta import build_sdist, build_wheel; build_sdist('../dist'); build_wheel('../dist')"
OWN = ("LICENSE", "configs/inference.json", "docs/README.md", "models/README.md")
WEIGHTS = "bundles/la/models/model.pt"
SHIPPED = [*(f"bundles/{name}/{file}" for name in ("amos", "brats", "la") for file in OWN), WEIGHTS]
LINKED = "bundles/la/docs/figures/atrium.png"
OF_A_USER = (
    *("bundles/la/eval/TEST/worst_cases/a.png", "bundles/la/eval/metrics.json", "bundles/la/logs/training.txt"),
    *("bundles/la/models/checkpoint.pt", "bundles/la/models/model_best.pt", "bundles/la/docs/.cache/a.png"),
    *("bundles/amos/models/model.json", "bundles/amos/models/model.pt"),
    *("bundles/liver/configs/inference.json", "bundles/liver/models/model.pt", "bundles/liver/docs/README.md"),
    *("docs/notebooks/runs/report.md", "docs/notebooks/runs/a.png", "docs/notebooks/.ipynb_checkpoints/a.ipynb"),
)
EARLIER = "aps_components.egg-info/SOURCES.txt"  # what an earlier build took along
LINK = re.compile(r"\]\(([^)\s:#]+)")


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """Both archives of the project's own instructions, pages and figures, and of small files in place of the rest."""
    folder = tmp_path_factory.mktemp("archives")
    clone = folder / "clone"
    shutil.copytree(ROOT / "docs", clone / "docs")
    for name in ("setup.py", "MANIFEST.in", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, clone / name)
    for name in ("aps_components/__init__.py", *SHIPPED, LINKED, *OF_A_USER, EARLIER):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text("\n".join(OF_A_USER) if name == EARLIER else "")
    (folder / "dist").mkdir()
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def sources(dist) -> set[str]:
    (file,) = dist.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def test_a_wheel_has_of_the_shipped_bundles_what_belongs_to_them(dist):
    (file,) = dist.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    place = "aps_components/shipped_bundles/"
    bundles = {name.replace(place, "bundles/") for name in names if name.startswith(place)}
    assert bundles == {*SHIPPED, LINKED}


def test_a_source_archive_has_the_same_of_them(dist, sources):
    assert {name for name in sources if name.startswith("bundles/")} == {*SHIPPED, LINKED}
    assert not sources & set(OF_A_USER)
    (file,) = dist.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        (listed,) = [member for member in archive if member.name.endswith(EARLIER)]
        text = archive.extractfile(listed).read().decode()
    assert "worst_cases" not in text


def test_a_source_archive_has_what_its_pages_link_to(sources):
    pages = [name for name in sources if name.startswith("docs/") and name.endswith(".md")]
    assert "docs/how-to/publish-a-bundle.md" in pages
    linked = {
        target.relative_to(ROOT).as_posix()
        for page in pages
        for link in LINK.findall((ROOT / page).read_text(encoding="utf-8"))
        if (target := (ROOT / page).parent.joinpath(link).resolve()).is_file() and ROOT / "docs" in target.parents
    }
    assert {Path(name).suffix for name in linked} >= {".md", ".jpg", ".csv", ".ipynb", ".png"}
    assert linked <= sources
