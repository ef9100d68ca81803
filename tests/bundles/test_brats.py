"""The bundle of brain tumours: all workflows, one after the other, on tiny scans, and on a real case."""

import csv
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from every_workflow import EveryWorkflow, inference, run_all, training
from made_up import MODALITIES, write_tumours
from workflows import evaluate, infer, make_workflow, train

CASE = "BraTS-GLI-00005-000"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tumours(tmp_path_factory.mktemp("tumours"))


@pytest.fixture(scope="module")
def scan(data):
    """A folder of the files of a case."""
    return data / CASE


@pytest.fixture(scope="module")
def results(data, scan, tmp_path_factory):
    return run_all("brats", data=data, scan=scan, folder=tmp_path_factory.mktemp("brats"))


class TestWorkflows(EveryWorkflow):
    name = "brats"
    case = CASE
    voxels = {"whole tumour": 3 * 512, "tumour core": 2 * 512, "enhancing tumour": 512}  # noqa: RUF012
    affine_file = f"{CASE}-t1n.nii.gz"


class TestModalities:
    def test_channels_come_in_the_order_of_the_bundle(self, data, tmp_path):
        workflow = make_workflow("train.json", kind="train", options=training("brats", data, tmp_path))
        items = workflow.parser.get_parsed_content("datalist").training_items
        assert [Path(file).name.split("-")[-1] for file in items[0]["image"]] == [f"{m}.nii.gz" for m in MODALITIES]

    def test_a_folder_of_cases_gives_a_segmentation_each(self, data, tmp_path):
        cases = [f"BraTS-GLI-{number:05d}-000" for number in (1, 4)]
        for case in cases:
            shutil.copytree(data / case, tmp_path / "cases" / case)
        image = str(tmp_path / "cases")
        infer(inference("brats", tmp_path / "out", image=image, load_pretrain=False, overlap=0.0))
        assert {file.name for file in (tmp_path / "out").iterdir()} == {f"{case}_seg.nii.gz" for case in cases}

    def test_a_four_channel_file_gives_the_same(self, data, tmp_path):
        case = data / "BraTS-GLI-00002-000"
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

    @pytest.mark.slow
    def test_the_setting_of_the_published_tables(self, data, tmp_path):
        """FLAIR alone and the whole tumour, by an override of the training: the model tells the other commands."""
        override = "flair_whole_tumour.json"
        options = training("brats", data, tmp_path)
        train(options, override)
        evaluate(options | {"output_dir": str(tmp_path / "evaluation")})
        with open(tmp_path / "evaluation" / "metrics.csv", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert {(row["class"], row["truth_voxels"]) for row in rows} == {("whole tumour", str(3 * 512))}
        model = str(tmp_path / "models" / "model.pt")
        case = data / CASE
        infer(inference("brats", tmp_path / "out", image=str(case), checkpoint=model), override)
        (written,) = (tmp_path / "out").iterdir()
        assert set(np.unique(np.asarray(nib.load(written).dataobj))) <= {0, 1}
        infer(inference("brats", tmp_path / "alone", image=str(case), checkpoint=model))
        (again,) = (tmp_path / "alone").iterdir()
        assert np.array_equal(np.asarray(nib.load(again).dataobj), np.asarray(nib.load(written).dataobj))


@pytest.mark.slow
def test_a_real_case_at_the_resolution_of_the_override_for_a_cpu(shared_data, tmp_path):
    case = shared_data / "brats" / "BraTS-GLI-00000-000"
    infer(inference("brats", tmp_path, image=str(case), load_pretrain=False, spacing=[3.0, 3.0, 3.0]))
    (file,) = tmp_path.iterdir()
    written, scan = nib.load(file), nib.load(next(case.glob("*-t1n.nii.gz")))
    assert file.name == "BraTS-GLI-00000-000_seg.nii.gz"
    assert written.shape == scan.shape
    np.testing.assert_allclose(written.affine, scan.affine, atol=1e-5)
