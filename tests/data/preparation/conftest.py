import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aps_components.data.preparation import prepare


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[dict, dict]]:
    """Prepare `raw` in this process; returns the datalist's and the summary's content."""

    def run(dataset: str, raw: Path, out: str = "out", **options: object) -> tuple[dict, dict]:
        path = prepare(dataset, raw=raw, out=tmp_path / out, **{"workers": 1, "progress": False} | options)
        assert path == tmp_path / out / "datalist.json"
        return json.loads(path.read_text()), json.loads((path.parent / "preparation.json").read_text())

    return run


@pytest.fixture
def names() -> Callable[[dict, str], list[str]]:
    """Case names of one part, by the first image's file name or its folder's."""

    def names(datalist: dict, part: str) -> list[str]:
        images = [item["image"] for item in datalist[part]]
        return [Path(image if isinstance(image, str) else image[0]).name.removesuffix(".nii.gz") for image in images]

    return names
