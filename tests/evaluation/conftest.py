import json

import pytest


@pytest.fixture
def unsplit(phantoms, tmp_path):
    """The phantoms with a datalist that names no validation scans: 4 with a label to train on."""
    content = json.loads((phantoms / "datalist.json").read_text())
    cases = [
        {key: str(phantoms / file) for key, file in case.items()} for case in content["training"] if "label" in case
    ]
    folder = tmp_path / "unsplit"
    folder.mkdir()
    (folder / "datalist.json").write_text(
        json.dumps({"name": "unsplit", "labels": content["labels"], "training": cases})
    )
    return folder
