"""Bad input through the bundle: refused before the first iteration, by the name of the file or the value.

What exactly is said of each fault is tested in tests/data; here, that it reaches the user.
"""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from workflows import inference_options, refusal, training_options

from aps_components.models import build_auto_prompt_seg

SHAPE = (32, 33, 34)
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def write(path, array, affine=AFFINE):
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def image(*shape):
    return np.random.default_rng(0).normal(size=shape or SHAPE).astype(np.float32)


def label(*shape, value=1):
    array = np.zeros(shape or SHAPE, dtype=np.uint8)
    array[8:20, 8:20, 8:20] = value
    return array


@pytest.fixture
def data(tmp_path):
    """A sound dataset: cases a to d, of which the tests spoil the third labelled one."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in "abcd":
        write(folder / "images" / f"{name}.nii.gz", image())
        write(folder / "labels" / f"{name}.nii.gz", label())
    cases = [{"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"} for name in "abcd"]
    listing = {
        "name": "toy",
        "labels": {"0": "background", "1": "atrium"},
        "training": cases[:3],
        "unlabeled": [],
        "validation": [cases[3]],
    }
    (folder / "datalist.json").write_text(json.dumps(listing))
    return folder


def refused(data, tmp_path, **changes):
    options = training_options(data, tmp_path / "out", **{"unlabeled_batch": 0} | changes)
    message = refusal("train.json", kind="train", options=options)
    assert not list((tmp_path / "out").rglob("*.pt"))
    return message


def missing(folder):
    (folder / "images" / "c.nii.gz").unlink()


def truncated(folder):
    file = folder / "images" / "c.nii.gz"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])


def shape_mismatch(folder):
    write(folder / "labels" / "c.nii.gz", label(32, 33, 35))


def affine_mismatch(folder):
    write(folder / "labels" / "c.nii.gz", label(), AFFINE + np.diag([0, 0, 0.5, 0]))


def label_outside(folder):
    write(folder / "labels" / "c.nii.gz", label(value=2))


def nan(folder):
    array = image()
    array[3, 4, 5] = np.nan
    write(folder / "images" / "c.nii.gz", array)


def two_channels(folder):
    write(folder / "images" / "c.nii.gz", image(*SHAPE, 2))


def flat(folder):
    write(folder / "images" / "c.nii.gz", image(32, 33))


def no_labels(folder):
    listing = json.loads((folder / "datalist.json").read_text())
    for case in listing["training"]:
        del case["label"]
    (folder / "datalist.json").write_text(json.dumps(listing))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing, "images/c.nii.gz: no such file"),
        (truncated, "images/c.nii.gz: cannot be read as NIfTI"),
        (shape_mismatch, "labels/c.nii.gz: shape (32, 33, 35) but"),
        (affine_mismatch, "labels/c.nii.gz: its affine differs"),
        (label_outside, "labels/c.nii.gz: label values 2 are outside the classes 0 to 1"),
        (nan, "images/c.nii.gz: 1 voxels are NaN or infinite"),
        (two_channels, "images/c.nii.gz: 2 channel(s) where 1 are wanted"),
        (flat, "images/c.nii.gz: a 2-D image of shape (32, 33)"),
        (no_labels, "datalist.json: empty label list"),
    ],
)
def test_training_refuses_faulty_data(data, tmp_path, spoil, message):
    spoil(data)
    said = refused(data, tmp_path)
    assert said.startswith("DataError: ")
    assert message in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labeled_batch": 4}, "labeled_batch is 4 but there are 3 labeled cases"),
        ({"unlabeled_batch": 1}, "unlabeled_batch is 1 but there are 0 unlabeled cases"),
        ({"labeled_count": 9}, "labeled_count 9 is outside 1 to 3"),
        ({"roi_size": [32, 40, 32]}, "roi_size [32, 40, 32] must be three sizes divisible by 16: try [32, 32, 32]"),
        ({"precision": "fp16"}, "precision 'fp16' must be 'auto', 'bf16' or 'fp32'"),
        ({"predictor": "c"}, "predictor 'c' must be 'a', 'b' or 'average'"),
        ({"ema_decay": 1.0}, "ema_decay 1.0 must be a number in [0, 1)"),
        ({"intensity": "z-score"}, "intensity 'z-score' must be"),
        ({"dataset_dir": "/no/such/folder"}, "/no/such/folder: no such dataset folder"),
    ],
)
def test_training_refuses_impossible_settings(data, tmp_path, changes, message):
    assert message in refused(data, tmp_path, **changes)


@pytest.mark.parametrize("key", ["ckpt_dir", "output_dir"])
def test_training_refuses_a_folder_that_it_cannot_write_into(data, tmp_path, key):
    (tmp_path / "file").touch()
    said = refused(data, tmp_path, **{key: str(tmp_path / "file" / "models")})
    assert said.startswith(f"PermissionError: cannot write into {tmp_path / 'file' / 'models'}")


@pytest.fixture
def other_architecture(tmp_path):
    network = build_auto_prompt_seg(num_classes=2, roi_size=(32, 32, 32), filters=8, sam_variant="tiny")
    torch.save(network.state_dict(), tmp_path / "other.pt")
    return tmp_path / "other.pt"


def test_checkpoint_of_another_architecture_is_refused(data, tmp_path, other_architecture):
    said = refused(data, tmp_path, pretrained=str(other_architecture))
    assert said.startswith(f"CheckpointError: {other_architecture} is a checkpoint of another architecture")
    options = inference_options(tmp_path / "out", dataset_dir=str(data), checkpoint=str(other_architecture))
    said = refusal("inference.json", kind="infer", options=options)
    assert said.startswith(f"CheckpointError: {other_architecture} is a checkpoint of another architecture")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing, None),
        (truncated, "images/c.nii.gz: cannot be read as NIfTI"),
        (nan, "images/c.nii.gz: 1 voxels are NaN or infinite"),
        (two_channels, "images/c.nii.gz: 2 channel(s) where 1 are wanted"),
        (flat, "images/c.nii.gz: a 2-D image of shape (32, 33)"),
    ],
)
def test_inference_refuses_faulty_scans(data, tmp_path, spoil, message):
    spoil(data)
    place = data / "images" / "c.nii.gz"
    given = {"checkpoint": str(tmp_path / "none.pt"), "load_pretrain": False}
    options = inference_options(tmp_path / "out", image=str(place), **given)
    said = refusal("inference.json", kind="infer", options=options)
    assert (message or f"{place}: no such file or folder") in said


def test_inference_refuses_a_folder_that_it_cannot_write_into(data, tmp_path):
    (tmp_path / "file").touch()
    options = inference_options(tmp_path / "file" / "out", dataset_dir=str(data), load_pretrain=False)
    said = refusal("inference.json", kind="infer", options=options)
    assert said.startswith(f"PermissionError: cannot write into {tmp_path / 'file' / 'out'}")
