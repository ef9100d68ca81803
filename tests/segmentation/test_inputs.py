import shutil

import nibabel as nib
import numpy as np
import pytest
from dicom_files import write_series

from aps_components.data import DataError
from aps_components.segmentation import find_cases

MODALITIES = ["t1n", "t1c", "t2w", "t2f"]


def scan(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.zeros((3, 5, 7), dtype=np.float32), np.eye(4)), path)
    return str(path)


def names(inputs):
    return [case.name for case in inputs.cases]


def test_a_file_and_a_folder_of_files(tmp_path):
    files = [scan(tmp_path / name) for name in ("b.nii", "a.nii.gz", "._a.nii.gz")]
    assert names(find_cases(files[1])) == ["a"]
    inputs = find_cases(tmp_path)
    assert [(case.name, case.files) for case in inputs.cases] == [("a", (files[1],)), ("b", (files[0],))]
    assert inputs.left_out == []


def test_results_of_an_earlier_call_are_no_scans(tmp_path):
    for name in ("a", "a_seg", "a_epistemic", "a_aleatoric", "a_probabilities", "b_seg"):
        scan(tmp_path / f"{name}.nii.gz")
    inputs = find_cases(tmp_path)
    assert names(inputs) == ["a", "b_seg"]  # of b there is no scan: that name is its own
    assert len(inputs.left_out) == 4
    assert inputs.left_out[-1] == "a_seg: lies beside the scan it is named after, as results do"


def test_several_modalities_are_files_of_a_case_in_a_folder_or_one_file(tmp_path):
    for case in ("p-1", "p-2"):
        for modality in (*MODALITIES, "seg"):
            scan(tmp_path / case / f"{case}-{modality}.nii.gz")
    scan(tmp_path / "whole.nii.gz")
    inputs = find_cases(tmp_path, modalities=MODALITIES)
    assert names(inputs) == ["whole", "p-1", "p-2"]
    assert [len(case.files) for case in inputs.cases] == [1, 4, 4]
    assert names(find_cases(tmp_path / "p-1", modalities=MODALITIES)) == ["p-1"]


def test_dicom_is_looked_for_where_there_is_no_nifti_or_by_series(tmp_path):
    write_series(tmp_path / "a" / "b", shape=(5, 7, 3))
    write_series(
        tmp_path / "c", shape=(5, 7, 3), SeriesInstanceUID="1.2.9", SeriesNumber=12, SeriesDescription="T2 sag"
    )
    assert names(find_cases(tmp_path)) == ["003_t1_axial_gd", "012_t2_sag"]
    for wanted in ("12", "t2", "012_t2_sag"):
        assert names(find_cases(tmp_path, series=wanted)) == ["012_t2_sag"]
    assert names(find_cases(tmp_path, series="3")) == ["003_t1_axial_gd"]
    with pytest.raises(DataError, match="no series 't3'; there are: 003_t1_axial_gd, 012_t2_sag; give a number"):
        find_cases(tmp_path, series="t3")
    scan(tmp_path / "x.nii.gz")
    assert names(find_cases(tmp_path)) == ["x"]
    assert names(find_cases(tmp_path, series="12")) == ["012_t2_sag"]


def test_a_series_becomes_a_file(tmp_path):
    (case,) = find_cases(write_series(tmp_path / "in", shape=(5, 7, 3))).cases
    (file,) = case.nifti(tmp_path)
    assert file == str(tmp_path / "003_t1_axial_gd.nii.gz")
    assert nib.load(file).shape == (5, 7, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere: no such file or folder"),
        ("empty", "empty: neither a .nii or .nii.gz file nor DICOM images in this folder"),
        ("a.nrrd", "a.nrrd: neither .nii or .nii.gz nor DICOM; convert the scan to NIfTI"),
        ("IM0001", "IM0001: one file of a DICOM series; give the folder"),
    ],
)
def test_what_is_no_scan_says_what_is_wanted(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.nrrd").touch()
    shutil.move(write_series(tmp_path / "s", shape=(5, 7, 3)) / "IM0001", tmp_path)
    with pytest.raises(DataError) as error:
        find_cases(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path}/{message}")


def test_a_series_of_a_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="--series chooses among the DICOM series of a folder"):
        find_cases(scan(tmp_path / "a.nii.gz"), series="3")
