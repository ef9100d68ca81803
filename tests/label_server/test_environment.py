"""What the environment of MONAI Label is made of; that it starts is shown by the server's tests."""

import re
from pathlib import Path

import pytest
from workflows import ROOT

from aps_components.label_server import environment


def names(lines):
    return {re.match(r"[A-Za-z0-9._-]+", line)[0].lower().replace("_", "-") for line in lines}


def test_it_holds_whatever_the_package_needs():
    """A training in the server uses all of it; a missing one shows only there."""
    tomllib = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = Path(environment.__file__).with_name(environment.REQUIREMENTS).read_text()
    listed = [line for line in pinned.splitlines() if not line.startswith("#")]
    listed += environment.WITHOUT_DEPENDENCIES
    assert names(project["dependencies"]) <= names(listed)
    assert names(project["optional-dependencies"]["label"]) <= names(listed)
