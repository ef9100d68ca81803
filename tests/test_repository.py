"""The repository itself: its size, its JSON, its version, and that it names no machine."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

import aps_components

ROOT = Path(__file__).parents[1]
MEGABYTE = 1_000_000
WEIGHTS = {"bundles/la/models/model.pt": 25 * MEGABYTE}  # as much as the model zoo takes in one file
# A folder of one machine at the start of a path: not "~/work/", not "https://site.org/home/".
MACHINE_PATH = re.compile(r"(?<![\w.~/}])/(home|root|work|Users|tmp/venv)/")
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("bundles/**/*.json"))


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """Everything that is tracked or could be: what git ignores is not part of the project."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git, or not a clone")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_no_file_is_over_a_megabyte(files: list[Path]) -> None:
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in files}
    assert not {name: size for name, size in sizes.items() if size > WEIGHTS.get(name, MEGABYTE)}


def test_no_file_names_a_path_of_one_machine(files: list[Path]) -> None:
    found = []
    for path in files:
        content = path.read_bytes()
        if b"\0" in content:
            continue
        for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), start=1):
            if MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("config", CONFIGS)
def test_json_parses(config: str) -> None:
    assert json.loads((ROOT / config).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("pyproject.toml", r'^version = "(.+)"$'),
        ("CHANGELOG.md", r"^## \[(\d.*?)\]"),
        ("CITATION.cff", r"^version: (.+)$"),
    ],
)
def test_the_version_is_the_same_everywhere(file: str, pattern: str) -> None:
    version = re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    assert version[1] == aps_components.__version__


NOTEBOOKS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/notebooks/*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebooks_are_kept_without_what_they_printed(notebook: str) -> None:
    cells = json.loads((ROOT / notebook).read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert not [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"] is not None]


def test_the_readme_is_read_in_two_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 500
