"""An environment that is made once, and finished where that was interrupted."""

import subprocess
import venv

import pytest

from aps_components.own_environment import OwnEnvironment, OwnEnvironmentError


@pytest.fixture
def environment(tmp_path):
    """As an interruption leaves it: the interpreter is there, and no pip yet."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(tmp_path / "environment")
    return OwnEnvironment(tmp_path / "environment")


@pytest.fixture
def recorder(tmp_path):
    """In place of an interpreter: writes down what it is called with, one call a line."""
    file = tmp_path / "python"
    file.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "calls"}\n')
    file.chmod(0o755)
    return file


def add_pip(environment, *, whole):
    """What pip leaves in an environment first, and last."""
    (packages,) = environment.folder.glob("lib/python3.*/site-packages")
    place = packages / "pip-1.0.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: pip\nVersion: 1.0\n")
    if whole:
        (place / "RECORD").write_text("pip/__init__.py,,\n")


@pytest.mark.parametrize("there", ["nothing", "an interpreter", "a part of pip"])
def test_an_interrupted_environment_is_finished(there, environment, recorder, tmp_path):
    if there == "nothing":
        environment = OwnEnvironment(tmp_path / "new")
    elif there == "a part of pip":
        add_pip(environment, whole=False)
    environment.make(python=str(recorder))
    assert (tmp_path / "calls").read_text() == f"-m venv {environment.folder}\n"


def test_one_with_pip_stays_as_it_is(environment, recorder, tmp_path):
    add_pip(environment, whole=True)
    environment.make(python=str(recorder))
    assert not (tmp_path / "calls").exists()


@pytest.mark.slow
def test_pip_is_there_afterwards(environment):
    environment.make()
    assert (
        subprocess.run([environment.python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    )


def test_a_step_that_fails_is_named(environment):
    with pytest.raises(OwnEnvironmentError, match=r"exit status 1 of: .* -m pip install .* nothing; its own message"):
        environment.install("nothing")  # there is no pip
