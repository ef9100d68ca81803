"""One real case, learned by heart: train and test on the same scan.

What comes out says nothing of accuracy on other scans. It says that orientation, spacing, label map, normalisation and
loss fit together on real files: where one of them does not, these figures cannot be reached.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from workflows import BUNDLES, evaluate, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
REACHED = 0.90
COPIES = ("first", "second", "again")  # two for a batch, one to evaluate: a datalist names each file once


@pytest.fixture(autouse=True)
def all_cores() -> Iterator[None]:
    """These networks are of full width: threads help."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


def copied_case(folder: Path, images: list[Path], label: Path) -> Path:
    """A dataset whose training and validation cases are all the same one."""
    items = []
    for copy in COPIES:
        (folder / copy).mkdir()
        files = [shutil.copy(file, folder / copy / f"{copy}-{file.name}") for file in images]
        truth = shutil.copy(label, folder / copy / f"{copy}-label.nii.gz")
        items.append({"image": [str(file) for file in files], "label": str(truth)})
    content = {
        "name": "by heart",
        "labels": {"0": "background", "1": "something"},
        "training": items[:2],
        "validation": items[2:],
    }
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder


def dice_by_class(bundle: str, data: Path, folder: Path, *overrides: str, **changes: object) -> dict[str, float]:
    """Train on the case, evaluate on it: raw Dice of the average of A and B."""
    options = {
        "bundle_root": str(BUNDLES / bundle),
        "dataset_dir": str(data),
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "eval"),
        "labeled_count": 2,
        "unlabeled_batch": 0,
        "augmentation": "none",
        "ema_decay": 0.95,  # a short memory, for a short training
        "epochs": 2,
        "warmup_epochs": 0,
        "val_interval": 2,
        "device": "cpu",
        **changes,
    }
    train(options, *overrides)
    evaluate(options | {"split": "validation"}, *overrides)
    with open(folder / "eval" / "metrics.csv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if (row["predictor"], row["variant"]) == ("average", "raw")]
    return {row["class"]: float(row["dice"]) for row in rows}


def test_liver_of_a_real_scan(shared_data: Path, tmp_path: Path) -> None:
    label = max((shared_data / "abdomen" / "labelsTr").glob("*.nii.gz"), key=lambda file: file.stat().st_size)
    data = copied_case(tmp_path, [shared_data / "abdomen" / "imagesTr" / label.name], label)
    dice = dice_by_class("amos", data, tmp_path, "cpu.json", epoch_length=110)
    assert dice["liver"] >= REACHED, dice


def test_whole_tumour_of_a_real_case(shared_data: Path, tmp_path: Path) -> None:
    (case,) = (shared_data / "brats").glob("BraTS-GLI-*")
    images = [next(case.glob(f"*-{modality}.nii.gz")) for modality in ("t1n", "t1c", "t2w", "t2f")]
    data = copied_case(tmp_path, images, next(case.glob("*seg.nii.gz")))
    dice = dice_by_class("brats", data, tmp_path, "cpu.json", epoch_length=75)
    assert dice["whole tumour"] >= REACHED, dice
