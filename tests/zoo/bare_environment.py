"""A virtual environment with some distributions and what they need, taken from the running one, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def make_environment(folder: Path, distributions: Iterable[str]) -> Path:
    """Make the environment without asking the network; gives its Python."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    (packages,) = folder.glob("lib/python3.*/site-packages")
    for needed in closure(distributions).values():
        for top in sorted({file.parts[0] for file in needed.files or () if file.parts[0] not in ("..", "__pycache__")}):
            source, link = Path(str(needed.locate_file(top))), packages / top
            if source.exists() and not link.exists() and not top.endswith(".pth"):
                link.symlink_to(source)
    return folder / "bin" / "python"


def closure(names: Iterable[str]) -> dict[str, Distribution]:
    """The distributions and all that they require without extras: name to distribution."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found[name] = distribution(name)
            required = map(Requirement, found[name].requires or ())
            waiting += [entry.name for entry in required if not entry.marker or entry.marker.evaluate({"extra": ""})]
    return found


def run(python: Path, *arguments: object, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the environment's Python in a folder, on one thread, where every address but this machine's fails."""
    closed = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9") | {"no_proxy": "127.0.0.1"}
    known = {key: value for key, value in os.environ.items() if key in ("PATH", "LANG", "TMPDIR", "LD_LIBRARY_PATH")}
    return subprocess.run(
        [str(python), *map(str, arguments)],
        cwd=cwd,
        env=known | closed | {"HOME": str(python.parents[1]), "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        timeout=timeout,
        check=False,
    )


if __name__ == "__main__":
    print(make_environment(Path(sys.argv[1]), sys.argv[2:]))
