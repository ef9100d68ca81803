"""A few inputs of the fuzz in this process, and all of it in one of its own."""

import json
import subprocess
import sys
from pathlib import Path

import child
import json_inputs
import pytest

SEED = 1  # others than those of the whole run
FEW = {"nifti": 24, "dicom": 8, "json": 1, "zip": 3}
INPUTS = [
    (kind, group, index) for kind, groups in child.groups().items() for group in groups for index in range(FEW[kind])
]


@pytest.mark.parametrize(("kind", "group", "index"), INPUTS)
def test_an_odd_file_is_refused_by_name_or_read_as_it_is(kind, group, index):
    assert child.one(kind, group, SEED, index).fault == ""


@pytest.mark.parametrize("group", json_inputs.GROUPS)
def test_a_sound_file_passes_its_door(tmp_path, group):
    """Or the fuzz would look at nothing behind the first check."""
    door = json_inputs.DOORS[group]
    file = tmp_path / door.file
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(line) + "\n" for line in door.content)
    file.write_text(lines if door.lines else json.dumps(door.content))
    assert json_inputs.check((tmp_path, group), child.seeded("json", group, SEED, 0))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_of_it():
    script = Path(__file__).with_name("fuzz.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
