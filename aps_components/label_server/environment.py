"""An environment of its own for MONAI Label.

A plain ``pip install monailabel`` brings other versions of torch and numpy than this project is made with, and a
pydicom that its own parts do not run with. So it is installed without its dependencies, and what it needs of them comes
from the pinned list beside this file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import aps_components
from aps_components.files import expanded
from aps_components.own_environment import OwnEnvironment, OwnEnvironmentError

REQUIREMENTS = "requirements.txt"
WITHOUT_DEPENDENCIES = ("monailabel==0.8.5", "pydicom-seg==0.4.1", "segment-anything==1.0")
SUPPORTED = ((3, 10), (3, 12))  # first and last version of Python
# MONAI Label imports it at the start and uses it in no part that a bundle needs. There is no build of it for every
# torch, and a wrong one does not load.
TORCHVISION = {
    "__init__.py": '"""Stands in for torchvision, which MONAI Label imports but does not need here."""\n',
    "utils.py": (
        '"""Two names that MONAI Label imports."""\n\n\n'
        "def make_grid(*args, **kwargs):\n"
        '    raise NotImplementedError("this environment has no torchvision")\n\n\n'
        "save_image = make_grid\n"
    ),
}


class LabelEnvironmentError(OwnEnvironmentError):
    """The environment could not be set up; the message says which step failed."""


@dataclass(frozen=True)
class LabelEnvironment(OwnEnvironment):
    """A virtual environment with MONAI Label."""

    @property
    def is_complete(self) -> bool:
        """Whether everything in the list, as it is now, was installed."""
        return self.has(_stamp())


def ensure_environment(folder: str | os.PathLike[str], *, python: str = sys.executable) -> LabelEnvironment:
    """Set up the environment, or finish what an interrupted call began; a complete one is left as it is.

    Args:
        folder: of the environment.
        python: the interpreter to make it with, 3.10 to 3.12.

    Raises:
        OwnEnvironmentError: the interpreter is another version, or a step failed.
    """
    environment = LabelEnvironment(Path(os.path.abspath(expanded(folder))))
    if not environment.is_complete:
        _refuse_version(python)
        print(f"Setting up {environment.folder}, an environment of some 2.5 GB for MONAI Label, once:", flush=True)
        environment.make(python=python)
        print("  PyTorch, MONAI and what the server needs; 5 minutes, more on a slow line", flush=True)
        with resources.as_file(_requirements()) as requirements:
            environment.install("-r", str(requirements))
        print(f"  {', '.join(WITHOUT_DEPENDENCIES)}", flush=True)
        environment.install("--no-deps", *WITHOUT_DEPENDENCIES)
        _write_torchvision(_site_packages(environment))
        environment.finish(_stamp())
    _link_this_package(_site_packages(environment))
    return environment


def _requirements() -> resources.abc.Traversable:
    return resources.files(__package__) / REQUIREMENTS


def _stamp() -> str:
    content = _requirements().read_bytes() + repr((WITHOUT_DEPENDENCIES, TORCHVISION)).encode()
    return hashlib.sha256(content).hexdigest()


def _refuse_version(python: str) -> None:
    code = "import sys; print(*sys.version_info[:2])"
    answer = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    version = tuple(int(part) for part in answer.stdout.split())
    if not SUPPORTED[0] <= version <= SUPPORTED[1]:
        raise LabelEnvironmentError(
            f"{python} is Python {'.'.join(map(str, version)) or 'unknown'}; MONAI Label 0.8.5 runs with "
            f"{'.'.join(map(str, SUPPORTED[0]))} to {'.'.join(map(str, SUPPORTED[1]))}: give one of these with --python"
        )


def _site_packages(environment: LabelEnvironment) -> Path:
    return Path(environment.answer("import sysconfig; print(sysconfig.get_path('purelib'))"))


def _write_torchvision(site_packages: Path) -> None:
    folder = site_packages / "torchvision"
    folder.mkdir(exist_ok=True)
    for name, text in TORCHVISION.items():
        (folder / name).write_text(text)


def _link_this_package(site_packages: Path) -> None:
    """The package that runs now is the one that the server uses: linked, or copied anew where links are not allowed."""
    source, target = Path(aps_components.__file__).resolve().parent, site_packages / aps_components.__name__
    if target.is_symlink() and target.resolve() == source:
        return
    if target.is_symlink():
        target.unlink()
    elif target.is_dir():
        shutil.rmtree(target)
    try:
        target.symlink_to(source, target_is_directory=True)
    except OSError:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
