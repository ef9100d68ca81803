"""What holds for a bundle of several classes, by all its workflows on tiny scans: the body of its test module.

No weights are shipped for these bundles: the tests train a small checkpoint for themselves.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from made_up import SHAPE
from monai.bundle import verify_metadata, verify_net_in_out
from workflows import BUNDLES, TINY, evaluate, infer, inference_options, make_workflow, train, training_options

from aps_components.bundle import DatasetBlock
from aps_components.bundle.metadata import SCHEMA_FILE
from aps_components.training import read_history


def block(name: str) -> DatasetBlock:
    return DatasetBlock.read(BUNDLES / name / "configs" / "train.json")


def training(name: str, data: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    short = {"epochs": 1, "warmup_epochs": 0, "val_interval": 1, "validation_count": 0, "labeled_count": 2}
    return training_options(data, folder, bundle_root=str(BUNDLES / name), **short | {"epoch_length": 1} | changes)


def inference(name: str, folder: Path, **changes: Any) -> dict[str, Any]:
    return inference_options(folder, bundle_root=str(BUNDLES / name), **changes)


def run_all(name: str, *, data: Path, scan: Path, folder: Path) -> Path:
    """Pretraining, training, evaluation and inference, as the documentation has them."""
    train(training(name, data, folder / "pretrain"), "pretrain.json")
    options = training(name, data, folder, pretrained=str(folder / "pretrain" / "models" / "model.pt"))
    train(options)
    evaluate(options | {"output_dir": str(folder / "evaluation")})
    model = str(folder / "models" / "model.pt")
    infer(inference(name, folder / "one", image=str(scan), checkpoint=model, save_maps=True))
    return folder


class EveryWorkflow:
    """The fixtures `data`, `scan` and `results` are the module's: a dataset, one scan of it, and what run_all gave.

    Attributes:
        name: of the bundle.
        case: the test case.
        voxels: what evaluation reports to its voxels in the made-up truth.
        affine_file: the file of the scan whose grid the segmentation is on, where the scan is a folder.
    """

    name: str
    case: str
    voxels: dict[str, int]
    affine_file: str | None = None

    @property
    def configs(self) -> Path:
        return BUNDLES / self.name / "configs"

    def test_training_reports_every_loss(self, results):
        (line,) = read_history(results / "eval" / "history.jsonl")
        assert {"supervised_a", "supervised_b", "pseudo_label_a", "consistency"} <= line["losses"].keys()
        assert all(np.isfinite(value) for value in line["losses"].values())
        assert set(line["validation"]) == {"dice_average", "dice_a", "dice_b", "prompt_precision"}

    def test_the_model_remembers_what_it_was_trained_on(self, results):
        settings = json.loads((results / "models" / "model.json").read_text())
        keys = (
            "labels",
            "label_values",
            "modalities",
            "flip_axes",
            "swelling",
            "balanced_crops",
            "class_weights",
            "intensity",
            "fusion",
        )
        assert {key: settings[key] for key in keys} == {key: getattr(block(self.name), key) for key in keys}

    def test_evaluation_reports_regions_or_classes(self, results):
        rows = self.figures(results)
        assert list(dict.fromkeys(row["class"] for row in rows)) == list(self.voxels)
        assert {row["case"] for row in rows} == {self.case}
        assert {row["class"]: int(row["truth_voxels"]) for row in rows} == self.voxels

    def test_inference_of_one_case_gives_one_segmentation(self, results, scan):
        written = nib.load(results / "one" / f"{self.case}_seg.nii.gz")
        assert [file.name for file in (results / "one").glob("*_seg.nii.gz")] == [f"{self.case}_seg.nii.gz"]
        assert written.shape == SHAPE
        np.testing.assert_allclose(
            written.affine, nib.load(scan / self.affine_file if self.affine_file else scan).affine
        )
        assert set(np.unique(np.asarray(written.dataobj))) <= set(range(block(self.name).num_classes))
        probabilities = nib.load(results / "one" / f"{self.case}_probabilities.nii.gz")
        assert probabilities.shape == (*SHAPE, block(self.name).num_classes)

    def test_evaluation_and_inference_agree(self, results):
        """Largest component of a region and of its classes differ, so the raw variant where the bundle has regions."""
        variant = "largest_component" if block(self.name).largest_component else "raw"
        rows = [row for row in self.figures(results) if (row["predictor"], row["variant"]) == ("average", variant)]
        assert len(rows) == len(self.voxels)
        written = np.asarray(nib.load(results / "one" / f"{self.case}_seg.nii.gz").dataobj)
        for row in rows:
            classes = [int(value) for value in row["label"].split("+")]
            assert int(row["prediction_voxels"]) == np.isin(written, classes).sum(), row["class"]

    @pytest.mark.parametrize("kind", ["train", "infer"])
    def test_monai_finds_every_property_that_it_wants(self, data, scan, tmp_path, monkeypatch, kind):
        monkeypatch.setattr("sys.excepthook", None)
        if kind == "train":
            workflow = make_workflow("train.json", kind=kind, options=training(self.name, data, tmp_path))
        else:
            options = inference(self.name, tmp_path, load_pretrain=False, image=str(scan), dataset_dir=str(data))
            workflow = make_workflow("inference.json", kind=kind, options=options)
        workflow.initialize()
        assert workflow.check_properties() == []
        image = torch.zeros(1, block(self.name).in_channels, 32, 48, 32)
        assert workflow.network_def.eval()(image).shape == (1, block(self.name).num_classes, 32, 48, 32)

    def test_monai_verifies_the_metadata_and_the_network(self, results):
        """Of the trained network's sizes, and with the schema that the bundle ships."""
        metadata = str(self.configs / "metadata.json")
        verify_metadata(meta_file=metadata, filepath=str(self.configs / SCHEMA_FILE))
        network = {key: value for key, value in TINY.items() if key.startswith(("network_def#", "roi_size"))}
        for file in ("train.json", "inference.json"):
            verify_net_in_out(
                net_id="network_def",
                meta_file=metadata,
                config_file=str(self.configs / file),
                device="cpu",
                n=2,
                checkpoint=str(results / "models" / "model.pt"),
                **network,
            )

    def test_monai_refuses_metadata_of_another_network(self):
        """So that the test above is worth something."""
        network = {key: value for key, value in TINY.items() if key.startswith(("network_def#", "roi_size"))}
        classes = {"_meta_#network_data_format#outputs#pred#num_channels": 7}
        with pytest.raises(ValueError, match="output channel number"):
            verify_net_in_out(
                net_id="network_def",
                meta_file=str(self.configs / "metadata.json"),
                config_file=str(self.configs / "train.json"),
                device="cpu",
                n=2,
                **network | classes,
            )

    @staticmethod
    def figures(results: Path) -> list[dict[str, str]]:
        with open(results / "evaluation" / "metrics.csv", newline="") as stream:
            return list(csv.DictReader(stream))
