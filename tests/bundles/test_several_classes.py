"""The bundles of several classes and several modalities: all workflows, one after the other, on tiny scans."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from made_up import MODALITIES, SHAPE, write_abdomens, write_tumours
from workflows import BUNDLES, evaluate, infer, inference_options, make_workflow, refusal, train, training_options

from aps_components.bundle import DatasetBlock
from aps_components.training import read_history

WRITERS = {"amos": write_abdomens, "brats": write_tumours}
TEST_CASE = {"amos": "amos_0005", "brats": "BraTS-GLI-00005-000"}


def block(name):
    return DatasetBlock.read(BUNDLES / name / "configs" / "train.json")


def training(name, data, folder, **changes):
    short = {"epochs": 1, "warmup_epochs": 0, "val_interval": 1, "validation_count": 0, "labeled_count": 2}
    return training_options(data, folder, bundle_root=str(BUNDLES / name), **short | {"epoch_length": 1} | changes)


def inference(name, folder, **changes):
    return inference_options(folder, bundle_root=str(BUNDLES / name), **changes)


@pytest.fixture(scope="module", params=WRITERS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def data(name, tmp_path_factory):
    return WRITERS[name](tmp_path_factory.mktemp(f"{name}_data"))


@pytest.fixture(scope="module")
def scan(name, data):
    """What is handed to inference: a file, or a folder of the files of a case."""
    return data / "images" / f"{TEST_CASE[name]}.nii.gz" if name == "amos" else data / TEST_CASE[name]


@pytest.fixture(scope="module")
def results(name, data, scan, tmp_path_factory):
    """All four workflows as the documentation has them."""
    folder = tmp_path_factory.mktemp(name)
    train(training(name, data, folder / "pretrain"), "pretrain.json")
    options = training(name, data, folder, pretrained=str(folder / "pretrain" / "models" / "model.pt"))
    train(options)
    evaluate(options | {"output_dir": str(folder / "evaluation")})
    model = str(folder / "models" / "model.pt")
    infer(inference(name, folder / "one", image=str(scan), checkpoint=model, save_maps=True))
    return folder


def test_training_reports_every_loss(results):
    (line,) = read_history(results / "eval" / "history.jsonl")
    assert {"supervised_a", "supervised_b", "pseudo_label_a", "consistency"} <= line["losses"].keys()
    assert all(np.isfinite(value) for value in line["losses"].values())
    assert set(line["validation"]) == {"dice_average", "dice_a", "dice_b", "prompt_precision"}


def test_the_model_remembers_what_it_was_trained_on(results, name):
    settings = json.loads((results / "models" / "model.json").read_text())
    for key in ("labels", "label_values", "modalities", "flip_axes", "balanced_crops", "class_weights", "intensity"):
        assert settings[key] == getattr(block(name), key), key


def test_evaluation_reports_regions_or_classes(results, name):
    with open(results / "evaluation" / "metrics.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    foreground = [text for value, text in block(name).labels.items() if value != "0"]
    reported = list(block(name).regions or foreground)
    assert list(dict.fromkeys(row["class"] for row in rows)) == reported
    assert {row["case"] for row in rows} == {TEST_CASE[name]}
    voxels = {row["class"]: int(row["truth_voxels"]) for row in rows}
    expected = {"whole tumour": 3 * 512, "tumour core": 2 * 512, "enhancing tumour": 512}
    assert voxels == (expected if name == "brats" else dict.fromkeys(foreground, 512))


def test_inference_of_one_case_gives_one_segmentation(results, name, scan):
    written = nib.load(results / "one" / f"{TEST_CASE[name]}_seg.nii.gz")
    assert [file.name for file in (results / "one").glob("*_seg.nii.gz")] == [f"{TEST_CASE[name]}_seg.nii.gz"]
    assert written.shape == SHAPE
    source = scan if scan.is_file() else scan / f"{scan.name}-t1n.nii.gz"
    np.testing.assert_allclose(written.affine, nib.load(source).affine)
    assert set(np.unique(np.asarray(written.dataobj))) <= set(range(block(name).num_classes))
    probabilities = nib.load(results / "one" / f"{TEST_CASE[name]}_probabilities.nii.gz")
    assert probabilities.shape == (*SHAPE, block(name).num_classes)


def test_evaluation_and_inference_agree(results, name):
    """Largest component of a region and of its classes differ, so the raw variant where the bundle has regions."""
    variant = "largest_component" if block(name).largest_component else "raw"
    with open(results / "evaluation" / "metrics.csv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["predictor"] == "average" and row["variant"] == variant]
    written = np.asarray(nib.load(results / "one" / f"{TEST_CASE[name]}_seg.nii.gz").dataobj)
    for row in rows:
        classes = [int(value) for value in row["label"].split("+")]
        assert int(row["prediction_voxels"]) == np.isin(written, classes).sum(), row["class"]


@pytest.mark.parametrize("kind", ["train", "infer"])
def test_monai_finds_every_property_that_it_wants(name, data, tmp_path, monkeypatch, kind):
    monkeypatch.setattr("sys.excepthook", None)
    if kind == "train":
        workflow = make_workflow("train.json", kind=kind, options=training(name, data, tmp_path))
    else:
        options = inference(name, tmp_path, load_pretrain=False, image=str(data / TEST_CASE["brats"]))
        options |= {"dataset_dir": str(data)} | ({"image": None} if name == "amos" else {})
        workflow = make_workflow("inference.json", kind=kind, options=options)
    workflow.initialize()
    assert workflow.check_properties() == []
    image = torch.zeros(1, block(name).in_channels, 32, 48, 32)
    assert workflow.network_def.eval()(image).shape == (1, block(name).num_classes, 32, 48, 32)


def test_a_missing_datalist_says_what_to_do(tmp_path):
    said = refusal("train.json", kind="train", options=training("amos", tmp_path, tmp_path / "out"))
    assert said.startswith("DataError: ")
    assert str(tmp_path / "datalist.json") in said


@pytest.fixture(scope="module")
def tumours(tmp_path_factory):
    return write_tumours(tmp_path_factory.mktemp("tumours"))


class TestModalities:
    """Of the bundle of four."""

    def test_channels_come_in_the_order_of_the_bundle(self, tumours, tmp_path):
        workflow = make_workflow("train.json", kind="train", options=training("brats", tumours, tmp_path))
        items = workflow.parser.get_parsed_content("datalist").training_items
        assert [Path(file).name.split("-")[-1] for file in items[0]["image"]] == [f"{m}.nii.gz" for m in MODALITIES]

    def test_a_folder_of_cases_gives_a_segmentation_each(self, tumours, tmp_path):
        infer(inference("brats", tmp_path / "out", image=str(tumours), load_pretrain=False, overlap=0.0))
        assert {file.name for file in (tmp_path / "out").iterdir()} == {
            f"BraTS-GLI-{number:05d}-000_seg.nii.gz" for number in range(6)
        }

    def test_a_four_channel_file_gives_the_same(self, tumours, tmp_path):
        case = tumours / "BraTS-GLI-00002-000"
        files = [case / f"{case.name}-{modality}.nii.gz" for modality in MODALITIES]
        channels = np.stack([np.asarray(nib.load(file).dataobj) for file in files], axis=-1)
        nib.save(nib.Nifti1Image(channels, nib.load(files[0]).affine), tmp_path / "patient.nii.gz")
        answers = []
        for image in (case, tmp_path / "patient.nii.gz"):
            torch.manual_seed(0)
            workflow = infer(inference("brats", tmp_path / "out", image=str(image), load_pretrain=False))
            answers.append(workflow.evaluator.state.output[0]["pred"])
        assert torch.equal(torch.as_tensor(answers[0]), torch.as_tensor(answers[1]))
        assert {file.name for file in (tmp_path / "out").iterdir()} == {
            "BraTS-GLI-00002-000_seg.nii.gz",
            "patient_seg.nii.gz",
        }

    def test_the_setting_of_the_published_tables(self, tumours, tmp_path):
        """FLAIR alone and the whole tumour, by one override for all commands."""
        override = "flair_whole_tumour.json"
        options = training("brats", tumours, tmp_path)
        train(options, override)
        evaluate(options | {"output_dir": str(tmp_path / "evaluation")}, override)
        with open(tmp_path / "evaluation" / "metrics.csv", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert {(row["class"], row["truth_voxels"]) for row in rows} == {("whole tumour", str(3 * 512))}
        model = str(tmp_path / "models" / "model.pt")
        case = tumours / TEST_CASE["brats"]
        infer(inference("brats", tmp_path / "out", image=str(case), checkpoint=model), override)
        (written,) = (tmp_path / "out").iterdir()
        assert set(np.unique(np.asarray(nib.load(written).dataobj))) <= {0, 1}
        said = refusal(
            "inference.json",
            kind="infer",
            options=inference("brats", tmp_path / "no", image=str(case), checkpoint=model),
        )
        assert said.startswith("CheckpointError: ")
        assert "labels" in said
        assert "modalities" in said


@pytest.mark.slow
class TestRealScans:
    """At the resolution of the overrides for a CPU."""

    def test_a_case_of_four_modalities(self, shared_data, tmp_path):
        case = shared_data / "brats" / "BraTS-GLI-00000-000"
        infer(inference("brats", tmp_path, image=str(case), load_pretrain=False, spacing=[3.0, 3.0, 3.0]))
        (file,) = tmp_path.iterdir()
        written, scan = nib.load(file), nib.load(next(case.glob("*-t1n.nii.gz")))
        assert file.name == "BraTS-GLI-00000-000_seg.nii.gz"
        assert written.shape == scan.shape
        np.testing.assert_allclose(written.affine, scan.affine, atol=1e-5)

    def test_abdomens(self, shared_data, tmp_path):
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
