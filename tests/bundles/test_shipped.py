"""The weights that a bundle brings: what they are, and that a clone segments with them as it is."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
import torch
from workflows import LA, ROOT

from aps_components.bundle.packaging import package_bundle
from aps_components.data import load_datalist
from aps_components.evaluation.metrics import dice
from aps_components.files import sha256_of
from aps_components.models import read_checkpoint
from aps_components.segmentation import segment

MODEL = LA / "models" / "model.pt"
ZOO_LIMIT = 25_000_000  # bytes


def test_they_are_in_half_precision_and_small_enough_for_the_zoo():
    weights = read_checkpoint(MODEL)
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float16}
    assert all(value.isfinite().all() for value in weights.values())
    assert MODEL.stat().st_size < ZOO_LIMIT


def test_the_settings_beside_them_name_no_machine():
    text = MODEL.with_suffix(".json").read_text()
    assert not re.search(r'"[^"]*/[^"]*"', text)
    settings = json.loads(text)
    assert [settings[key] for key in ("labeled_count", "labeled_by_hand", "validation_count")] == [70, 8, 10]


def test_the_bundles_page_speaks_of_these_weights():
    page = (LA / "docs" / "README.md").read_text()
    assert sha256_of(MODEL)[:16] in page
    assert "No weights" not in page + (ROOT / "README.md").read_text()


def test_they_learned_long_enough():
    """Model A in two parts, then Model B in two, of which the settings know the last."""
    page, settings = (LA / "docs" / "README.md").read_text(), json.loads(MODEL.with_suffix(".json").read_text())

    def iterations(pattern):
        return [int(number.replace(",", "")) for number in re.search(pattern, page).groups()]

    first, second = iterations(r"([\d,]+)\s+with\s+seed\s+0\s+and\s+then\s+([\d,]+)\s+with\s+seed\s+1")
    assert first + second >= 4000
    before, last = iterations(r"([\d,]+)\s+iterations\s+and\s+then\s+([\d,]+)\s+more")
    assert settings["epochs"] * settings["epoch_length"] == last
    assert before + last >= 1000


@pytest.mark.slow
def test_the_bundle_is_packaged_as_it_is(tmp_path):
    assert package_bundle(LA, out=tmp_path).archive.name.startswith("la_v")


@pytest.mark.slow
def test_a_validation_scan_is_segmented_without_a_checkpoint(shared_data, tmp_path):
    """The network never saw its label; 0.85 is far from what chance or a wrong voxel size would give."""
    data = load_datalist(shared_data / "la", default=LA / "configs" / "datalist.json", validation_count=10)
    item = data.validation[0]
    segment(item["image"], tmp_path / "seg.nii.gz", bundle=LA, device="cpu", preview=False)
    answer, truth = (np.asarray(nib.load(file).dataobj) > 0 for file in (tmp_path / "seg.nii.gz", item["label"]))
    assert dice(answer, truth) > 0.85
