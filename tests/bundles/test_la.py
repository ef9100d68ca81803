import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import create_workflow, verify_metadata, verify_net_in_out
from workflows import (
    LA,
    TINY,
    command,
    evaluate,
    infer,
    inference_options,
    refusal,
    run_python,
    train,
    training_options,
)

from aps_components import load_model
from aps_components.bundle.metadata import SCHEMA_FILE
from aps_components.data import load_datalist
from aps_components.models import load_weights, trained_setting
from aps_components.training import read_history

CONFIGS = LA / "configs"


@pytest.mark.parametrize(("kind", "file"), [("train", "train.json"), ("infer", "inference.json")])
def test_monai_finds_every_property_that_it_wants(phantoms, tmp_path, monkeypatch, kind, file):
    options = training_options(phantoms, tmp_path) if kind == "train" else inference_options(tmp_path)
    if kind == "infer":
        options |= {"load_pretrain": False, "dataset_dir": str(phantoms), "checkpoint": str(tmp_path / "none.pt")}
    monkeypatch.setattr("sys.excepthook", None)
    workflow = create_workflow(
        config_file=[str(CONFIGS / file)],
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        **options,
    )
    assert workflow.check_properties() == []
    image = torch.zeros(1, 1, 32, 48, 32)
    assert workflow.network_def.eval()(image).shape == (1, 2, 32, 48, 32)


@pytest.fixture(scope="module")
def results(labelled_phantoms, tmp_path_factory):
    """All four workflows, one after the other, as the documentation has them."""
    folder = tmp_path_factory.mktemp("la")
    options = training_options(labelled_phantoms, folder, validation_count=0)
    pretraining = training_options(
        labelled_phantoms, folder / "pretrain", validation_count=0, epochs=1, epoch_length=12
    )
    train(pretraining, "pretrain.json")
    train(options | {"pretrained": str(folder / "pretrain" / "models" / "model.pt")})
    evaluate(options | {"output_dir": str(folder / "evaluation")})
    image = load_datalist(labelled_phantoms).test[0]["image"]
    model = {"checkpoint": str(folder / "models" / "model.pt")}
    infer(inference_options(folder / "one", image=image, save_maps=True, **model))
    return folder


def weights(folder):
    return torch.load(folder / "models" / "model.pt", weights_only=True)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


class TestWorkflows:
    def test_pretraining_trains_model_a_alone(self, results):
        (line,) = read_history(results / "pretrain" / "eval" / "history.jsonl")
        assert set(line["losses"]) == {"supervised_a", "heteroscedastic", "loss", "gradient_norm"}

    def test_a_model_whose_b_learned_nothing_answers_by_a(self, results):
        for folder, predictor in ((results / "pretrain", "a"), (results, "average")):
            assert trained_setting(folder / "models" / "model.pt", "inference_predictor") == predictor

    def test_training_starts_from_the_pretraining(self, results, labelled_phantoms, tmp_path):
        train(training_options(labelled_phantoms, tmp_path, validation_count=0))
        assert not same(weights(tmp_path), weights(results))

    def test_training_reports_and_saves(self, results):
        first, second = read_history(results / "eval" / "history.jsonl")
        assert "consistency" not in first["losses"]
        assert {"pseudo_label_a", "pseudo_label_b", "consistency", "supervised_b"} <= set(second["losses"])
        assert set(second["validation"]) == {"dice_average", "dice_a", "dice_b", "prompt_precision"}
        assert {file.name for file in (results / "models").iterdir()} == {
            "checkpoint.pt",
            "model.pt",
            "model.json",
            "model_best.pt",
            "model_best.json",
        }
        assert list((results / "eval").glob("events.out.tfevents.*"))

    def test_evaluating_reads_the_test_part(self, results):
        with open(results / "evaluation" / "metrics.csv", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert {row["case"] for row in rows} == {"phantom_007", "phantom_008"}
        assert {row["predictor"] for row in rows} == {"average", "a", "b"}
        context = json.loads((results / "evaluation" / "metrics.json").read_text())["context"]
        assert context["split"] == "test"
        assert context["checkpoint"] == str(results / "models" / "model.pt")
        assert context["labeled_count"] == 3

    def test_inference_writes_label_map_maps_and_prompts(self, results, labelled_phantoms):
        scan = nib.load(labelled_phantoms / "images" / "phantom_007.nii.gz")
        shapes = {"seg": (), "probabilities": (2,), "epistemic": (), "aleatoric": ()}
        for name, channels in shapes.items():
            written = nib.load(results / "one" / f"phantom_007_{name}.nii.gz")
            assert written.shape == scan.shape + channels
            np.testing.assert_allclose(written.affine, scan.affine)
        assert json.loads((results / "one" / "phantom_007_prompts.json").read_text())["scan"] == "phantom_007"
        assert len(list((results / "one").iterdir())) == 5

    def test_evaluating_and_inference_agree(self, results):
        """The figure of the evaluation is that of the file that inference wrote."""
        written = np.asarray(nib.load(results / "one" / "phantom_007_seg.nii.gz").dataobj)
        assert written.any()
        with open(results / "evaluation" / "metrics.csv", newline="") as stream:
            (row,) = [
                row
                for row in csv.DictReader(stream)
                if (row["case"], row["predictor"], row["variant"]) == ("phantom_007", "average", "largest_component")
            ]
        assert int(row["prediction_voxels"]) == np.count_nonzero(written)

    def test_inference_of_a_folder_is_that_of_each_file(self, results, labelled_phantoms, tmp_path):
        scans = tmp_path / "scans"
        scans.mkdir()
        for name in ("phantom_007", "phantom_008"):
            shutil.copy(labelled_phantoms / "images" / f"{name}.nii.gz", scans)
        model = str(results / "models" / "model.pt")
        infer(inference_options(tmp_path / "out", image=str(scans), checkpoint=model))
        assert {file.name for file in (tmp_path / "out").iterdir()} == {
            "phantom_007_seg.nii.gz",
            "phantom_008_seg.nii.gz",
        }
        for file, other in (("out", "phantom_007"),):
            np.testing.assert_array_equal(
                np.asarray(nib.load(tmp_path / file / f"{other}_seg.nii.gz").dataobj),
                np.asarray(nib.load(results / "one" / f"{other}_seg.nii.gz").dataobj),
            )

    @pytest.mark.parametrize("predictor", ["a", "b"])
    def test_a_predictor_can_be_chosen(self, results, labelled_phantoms, tmp_path, predictor):
        image = str(labelled_phantoms / "images" / "phantom_007.nii.gz")
        model = str(results / "models" / "model.pt")
        options = {"image": image, "checkpoint": model, "predictor": predictor, "largest_component": False}
        infer(inference_options(tmp_path, **options))
        found = nib.load(tmp_path / "phantom_007_seg.nii.gz").get_fdata()
        loaded = load_model(model)
        loaded.inferer.precision = "fp32"  # as the inference above: in bf16, a CPU's own choice, votes near 0.5 differ
        prediction = loaded.inferer.predict(
            loaded.preprocessing({"image": image})["image"].as_tensor()[None], loaded.network
        )
        answers = {"a": prediction.probabilities_a, "b": prediction.probabilities_b}
        assert np.array_equal(found > 0, answers[predictor][0, 1].numpy() > 0.5)

    @pytest.mark.parametrize("left_out", ["test scans", "labels of the unlabelled"])
    def test_training_never_reads(self, results, labelled_phantoms, tmp_path, left_out):
        """With these files gone it is the same training, to the bit."""
        data = tmp_path / "data"
        shutil.copytree(labelled_phantoms, data)
        datalist = load_datalist(data)
        if left_out == "test scans":
            files = [item[key] for item in datalist.test for key in ("image", "label")]
        else:
            files = [item["label"] for item in datalist.labeled[3:]]
        assert len(files) >= 3
        for file in files:
            Path(file).unlink()
        options = training_options(data, tmp_path, validation_count=0)
        train(options | {"pretrained": str(results / "pretrain" / "models" / "model.pt")})
        assert same(weights(tmp_path), weights(results))

    def test_a_label_of_a_labelled_case_does_matter(self, results, labelled_phantoms, tmp_path):
        data = tmp_path / "data"
        shutil.copytree(labelled_phantoms, data)
        file = load_datalist(data).labeled[0]["label"]
        scan = nib.load(file)
        nib.save(nib.Nifti1Image(np.zeros(scan.shape, dtype=np.uint8), scan.affine), file)
        options = training_options(data, tmp_path, validation_count=0)
        train(options | {"pretrained": str(results / "pretrain" / "models" / "model.pt")})
        assert not same(weights(tmp_path), weights(results))

    def test_weights_on_disk_are_the_networks(self, results, labelled_phantoms, tmp_path):
        image = str(labelled_phantoms / "images" / "phantom_007.nii.gz")
        model = results / "models" / "model.pt"
        workflow = infer(inference_options(tmp_path, image=image, checkpoint=str(model)))
        network = workflow.parser.get_parsed_content("network")
        assert same(dict(network.state_dict()), weights(results))
        load_weights(network, model)


def test_monai_verifies_the_metadata_and_the_network(results):
    """With the sizes of the trained network, and the schema that the bundle ships."""
    metadata = str(CONFIGS / "metadata.json")
    verify_metadata(meta_file=metadata, filepath=str(CONFIGS / SCHEMA_FILE))
    network = {key: value for key, value in TINY.items() if key.startswith(("network_def#", "roi_size"))}
    for file in ("train.json", "inference.json"):
        verify_net_in_out(
            net_id="network_def",
            meta_file=metadata,
            config_file=str(CONFIGS / file),
            device="cpu",
            n=2,
            checkpoint=str(results / "models" / "model.pt"),
            **network,
        )


def test_training_goes_without_validation_and_test_cases(phantoms, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(phantoms, data)
    listing = json.loads((data / "datalist.json").read_text())
    (data / "datalist.json").write_text(json.dumps(listing | {"validation": [], "test": []}))
    options = training_options(data, tmp_path, validation_count=0, epochs=1, val_interval=1)
    train(options)
    assert {file.name for file in (tmp_path / "models").glob("*.pt")} == {"checkpoint.pt", "model.pt"}
    assert "validation" not in read_history(tmp_path / "eval" / "history.jsonl")[0]
    said = refusal("train.json", "evaluate.json", kind="train", options=options)
    assert said.startswith("ValueError: there are no validation cases with labels to evaluate")


@pytest.mark.parametrize("run", ["inference", "evaluating"])
def test_missing_model_says_how_to_get_one(phantoms, tmp_path, run):
    if run == "inference":
        options = inference_options(tmp_path, dataset_dir=str(phantoms), checkpoint=str(tmp_path / "model.pt"))
        message = refusal("inference.json", kind="infer", options=options)
    else:
        options = training_options(phantoms, tmp_path, ckpt_dir=str(tmp_path))
        message = refusal("train.json", "evaluate.json", kind="train", options=options)
    assert message.startswith(
        f"CheckpointError: no checkpoint at {tmp_path / 'model.pt'}. Give one (--checkpoint FILE)"
    )
    assert "or train one: python -m monai.bundle run training" in message


@pytest.mark.slow
def test_command_line_from_another_folder_ends_with_the_plain_cause(tmp_path):
    """A scan that is cut off, which two layers below this package and three above it complain about."""
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(b"\x1f\x8b no scan at all")
    options = TINY | {"image": scan, "output_dir": tmp_path / "out", "load_pretrain": False}
    options |= {"checkpoint": tmp_path / "none.pt"}
    result = run_python(command("inference", "inference.json", options=options), cwd=tmp_path)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert f"{scan}: cannot be read as NIfTI" in last
    assert "copy, download or convert it again" in last


@pytest.mark.slow
def test_real_scans_go_through(shared_data, tmp_path):
    """Two labelled and two unlabelled scans of the atrium, at a quarter of their resolution."""
    data = tmp_path / "data"
    for kind in ("images", "labels"):
        (data / kind).mkdir(parents=True)
    listing = json.loads((CONFIGS / "datalist.json").read_text())
    listing |= {"training": listing["training"][:5], "test": []}
    for case in listing["training"]:
        for file in case.values():
            (data / file).symlink_to(shared_data / "la" / file)
    (data / "datalist.json").write_text(json.dumps(listing))
    coarse = {"spacing": [2.5, 2.5, 2.5]}
    train(training_options(data, tmp_path, labeled_count=2, epochs=1, val_interval=1, warmup_epochs=0, **coarse))
    image = data / listing["training"][0]["image"]
    model = {"checkpoint": str(tmp_path / "models" / "model.pt")}
    infer(inference_options(tmp_path / "out", image=str(image), **model))  # the model says at which voxel size
    scan, written = nib.load(image), nib.load(tmp_path / "out" / f"{image.name[:-7]}_seg.nii.gz")
    assert written.shape == scan.shape
    np.testing.assert_allclose(written.affine, scan.affine, atol=1e-5)
    assert set(np.unique(np.asarray(written.dataobj))) <= {0, 1}
