"""The bundle of abdominal organs: all workflows, one after the other, on tiny scans, and on real ones."""

import json

import nibabel as nib
import numpy as np
import pytest
from every_workflow import EveryWorkflow, block, inference, run_all, training
from made_up import write_abdomens
from workflows import infer, refusal, train

CASE = "amos_0005"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_abdomens(tmp_path_factory.mktemp("abdomens"))


@pytest.fixture(scope="module")
def scan(data):
    return data / "images" / f"{CASE}.nii.gz"


@pytest.fixture(scope="module")
def results(data, scan, tmp_path_factory):
    return run_all("amos", data=data, scan=scan, folder=tmp_path_factory.mktemp("amos"))


class TestWorkflows(EveryWorkflow):
    name = "amos"
    case = CASE
    voxels = dict.fromkeys(list(block("amos").labels.values())[1:], 512)


def test_a_missing_datalist_says_what_to_do(tmp_path):
    said = refusal("train.json", kind="train", options=training("amos", tmp_path, tmp_path / "out"))
    assert said.startswith("DataError: ")
    assert str(tmp_path / "datalist.json") in said


@pytest.mark.slow
def test_real_scans_at_the_resolution_of_the_override_for_a_cpu(shared_data, tmp_path):
    """Says nothing about accuracy: a model made these labels."""
    source, files = shared_data / "abdomen", ("ct_0001.nii.gz", "ct_0002.nii.gz")
    first, second = (
        {"image": str(source / "imagesTr" / file), "label": str(source / "labelsTr" / file)} for file in files
    )
    listing = {"name": "abdomen", "labels": block("amos").labels, "training": [first], "validation": [second]}
    (tmp_path / "datalist.json").write_text(
        json.dumps(listing | {"unlabeled": [{"image": str(tmp_path / "u.nii.gz")}]})
    )
    (tmp_path / "u.nii.gz").symlink_to(source / "imagesTr" / files[1])
    few = {"labeled_count": 1, "labeled_batch": 1, "unlabeled_batch": 1}
    train(training("amos", tmp_path, tmp_path, **few), "cpu.json")
    model = str(tmp_path / "models" / "model.pt")
    infer(inference("amos", tmp_path / "out", image=second["image"], checkpoint=model), "cpu.json")
    written, scan = nib.load(tmp_path / "out" / "ct_0002_seg.nii.gz"), nib.load(second["image"])
    assert written.shape == scan.shape
    np.testing.assert_allclose(written.affine, scan.affine, atol=1e-5)
