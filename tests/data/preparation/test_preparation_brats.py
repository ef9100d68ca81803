"""BraTS of every year: names, folders, and both numbers of enhancing tumour."""

import numpy as np
import pytest
from official_trees import SHAPE, spoil, write_brats, write_nifti

from aps_components.data import check_cases, load_datalist

OLD = ("t1", "t1ce", "t2", "flair", "seg")
NEW = ("t1n", "t1c", "t2w", "t2f", "seg")
GENERATIONS = {
    "2019": ("HGG/{name}/{name}_{part}.nii.gz", OLD, 4, "BraTS19_2013_{}_1"),
    "2020": ("{name}/{name}_{part}.nii", OLD, 4, "BraTS20_Training_00{}"),
    "2021": ("{name}/{name}_{part}.nii.gz", OLD, 4, "BraTS2021_0000{}"),
    "2023": ("{name}/{name}-{part}.nii.gz", NEW, 3, "BraTS-GLI-0000{}-000"),
    "flat": ("{name}-{part}.nii.gz", NEW, 3, "BraTS-GLI-0000{}-000"),
    "folder per file": ("{name}/{name}_{part}.nii/000_brain_{part}.nii", OLD, 4, "BraTS2021_0000{}"),
}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_generation(tmp_path, run, generation):
    pattern, parts, enhancing, name = GENERATIONS[generation]
    names = [name.format(index) for index in range(4)]
    write_brats(tmp_path / "raw", names, pattern=pattern, parts=parts, enhancing=enhancing)
    datalist, summary = run("brats", tmp_path / "raw")
    assert summary["counts"] == {"training": 2, "unlabeled": 0, "validation": 1, "test": 1}
    assert sorted(summary["cases"]) == names
    for part in ("training", "validation", "test"):
        for item in datalist[part]:
            case = next(case for case in names if case in item["label"])
            expected = [f"../raw/{pattern.format(name=case, part=modality)}" for modality in parts]
            assert [*item["image"], item["label"]] == expected
    assert datalist["labels"] == {"0": "background", "1": "necrotic core", "2": "oedema", "3": "enhancing tumour"}
    note = "maps it to 3" if enhancing == 4 else "enhancing tumour is 3 in 4 labels"
    assert any(note in line for line in summary["notes"])
    check_cases(load_datalist(tmp_path / "out").labeled, in_channels=4)


def test_high_and_low_grade_together(tmp_path, run):
    write_brats(
        tmp_path / "raw" / "HGG", ["BraTS19_A_1", "BraTS19_B_1"], pattern="{name}/{name}_{part}.nii.gz", parts=OLD
    )
    write_brats(tmp_path / "raw" / "LGG", ["BraTS19_C_1"], pattern="{name}/{name}_{part}.nii.gz", parts=OLD)
    (tmp_path / "raw" / "name_mapping.csv").write_text("a,b")
    _, summary = run("brats", tmp_path / "raw")
    assert sorted(summary["cases"]) == ["BraTS19_A_1", "BraTS19_B_1", "BraTS19_C_1"]


def test_the_label_of_2020_that_has_another_name(tmp_path, run):
    name = "BraTS20_Training_355"
    write_brats(tmp_path / "raw", [name], pattern="{name}/{name}_{part}.nii", parts=OLD, enhancing=4)
    folder = tmp_path / "raw" / name
    (folder / f"{name}_seg.nii").rename(folder / "W39_1998.09.19_Segm.nii")
    datalist, summary = run("brats", tmp_path / "raw")
    assert datalist["training"][0]["label"] == f"../raw/{name}/W39_1998.09.19_Segm.nii"
    assert summary["left_out"] == {}


def test_cases_without_a_label_are_unlabeled(tmp_path, run):
    write_brats(tmp_path / "raw", ["A-1", "A-2", "A-3"])
    write_brats(tmp_path / "raw", ["B-1"], parts=NEW[:4])
    datalist, _ = run("brats", tmp_path / "raw")
    assert [item["image"][0] for item in datalist["unlabeled"]] == ["../raw/B-1/B-1-t1n.nii.gz"]


def test_a_missing_modality_is_named(tmp_path, run):
    write_brats(tmp_path / "raw", ["A-1", "A-2", "A-3"])
    write_brats(tmp_path / "raw", ["B-1"], parts=("t1n", "t2w", "seg"))
    _, summary = run("brats", tmp_path / "raw")
    assert "no t1c, t2f; there is t1n, t2w, seg" in summary["left_out"]["B-1"]


def test_broken_cases_are_named(tmp_path, run):
    raw = write_brats(tmp_path / "raw", [f"A-{index}" for index in range(6)])
    spoil(raw / "A-0" / "A-0-t2w.nii.gz")
    write_nifti(raw / "A-1" / "A-1-seg.nii.gz", np.full(SHAPE, 5, np.uint8))
    write_nifti(raw / "A-2" / "A-2-t2f.nii.gz", np.zeros((17, 24, 39), np.int16))
    _, summary = run("brats", raw)
    reasons = {name.split(" (")[0]: reason for name, reason in summary["left_out"].items()}
    assert sorted(reasons) == ["A-0", "A-1", "A-2"]
    assert "A-0-t2w.nii.gz: cannot be read as NIfTI" in reasons["A-0"]
    assert "A-1-seg.nii.gz: label values 5 are outside the classes 0 to 3" in reasons["A-1"]
    assert "A-2-t2f.nii.gz: shape (17, 24, 39)" in reasons["A-2"]


def test_labels_of_unlabeled_cases_are_never_read(tmp_path, run):
    raw = write_brats(tmp_path / "raw", [f"A-{index}" for index in range(6)])
    datalist, _ = run("brats", raw, "first", labeled=1)
    hidden = [item["image"][0].split("/")[2] for item in datalist["unlabeled"]]
    assert len(hidden) == 3
    for name in hidden:
        spoil(raw / name / f"{name}-seg.nii.gz")
    again, summary = run("brats", raw, "second", labeled=1)
    assert again == datalist
    assert summary["left_out"] == {}
