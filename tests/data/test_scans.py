import json
import shutil
from dataclasses import replace

import pytest
from case_folders import box, write_cases

from aps_components.data import DataError
from aps_components.data.scans import find_scans

BOXES = {1: box((1, 3), (1, 4), (2, 5))}


@pytest.mark.parametrize("layout", ["plain", "nnunet"])
def test_folders(tmp_path, layout):
    write_cases(tmp_path, labelled=2, unlabelled=1, shape=(5, 7, 11), boxes=BOXES, layout=layout)
    scans = find_scans(tmp_path)
    assert [(case.name, case.label is not None) for case in scans.folder.cases] == [
        ("c00", True),
        ("c01", True),
        ("c02", False),
    ]
    assert (scans.names, scans.validation, scans.test) == (None, [], [])
    assert scans.patients == {"c00": "c00", "c01": "c01", "c02": "c02"}


@pytest.fixture
def listed(tmp_path):
    """A datalist beside its scans: two labels by hand, one by models, one scan for validation, one for the test."""
    write_cases(tmp_path, labelled=5, unlabelled=1, shape=(5, 7, 11), boxes=BOXES)

    def item(index, **more):
        return {"image": f"images/c0{index}.nii.gz", "label": f"labels/c0{index}.nii.gz", **more}

    content = {
        "name": "listed",
        "labels": {"0": "background", "1": "block"},
        "training": [item(0, patient="x"), item(1, patient="x"), item(2, label_by="models")],
        "unlabeled": [{"image": "images/c05.nii.gz"}],
        "validation": [item(3)],
        "test": [item(4)],
    }
    file = tmp_path / "split_1.json"
    file.write_text(json.dumps(content))
    return file


def test_a_scan_is_no_datalist(listed):
    with pytest.raises(DataError, match=r"c00\.nii\.gz: no datalist, which is a \.json file; give one, or the folder"):
        find_scans(listed.parent / "images" / "c00.nii.gz")


def test_a_datalist_says_what_is_learned_from(listed):
    scans = find_scans(listed)
    labelled = {case.name: case.label for case in scans.folder.cases}
    assert labelled == {"c00": "labels/c00.nii.gz", "c01": "labels/c01.nii.gz", "c02": None, "c05": None}
    assert [item["image"] for item in scans.validation] == [str(listed.parent / "images" / "c03.nii.gz")]
    assert [item["image"] for item in scans.test] == [str(listed.parent / "images" / "c04.nii.gz")]
    assert scans.names == {0: "background", 1: "block"}
    assert scans.patients == {"c00": "x", "c01": "x", "c02": "c02", "c05": "c05"}


def test_a_folder_with_a_datalist_is_that_datalist(listed):
    shutil.copy(listed, listed.parent / "datalist.json")
    assert find_scans(listed.parent) == replace(find_scans(listed), listing=listed.parent / "datalist.json")


def test_no_scans_are_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        find_scans(tmp_path / "nowhere")


def test_the_home_of_nobody_is_a_folder_that_is_not_there():
    with pytest.raises(DataError, match="nobody_at_all"):
        find_scans("~nobody_at_all/scans")


def changed(listed, change):
    content = json.loads(listed.read_text())
    change(content)
    listed.write_text(json.dumps(content))
    return listed


def test_what_is_said_of_all_labels_is_said_of_scans_that_are_kept_apart(listed):
    def say_one_thing(content):
        content["test"][0]["labeled_slices"] = {"axis": 0, "indices": "drawn"}

    scans = find_scans(changed(listed, say_one_thing)).told(ignore=9, slices="drawn")
    assert [(item["ignore"], item["labeled_slices"]) for item in scans.validation] == [(9, "drawn")]
    assert [item["labeled_slices"]["axis"] for item in scans.test] == [0]
    assert scans.folder.ignore == 9


def test_two_scans_of_one_file_name_are_refused_before_they_are_one_patient(listed):
    other = listed.parent / "other" / "c00.nii.gz"
    other.parent.mkdir()
    shutil.copy(listed.parent / "images" / "c05.nii.gz", other)
    file = changed(listed, lambda content: content["unlabeled"].append({"image": "other/c00.nii.gz"}))
    with pytest.raises(DataError, match=r"are both named 'c00'.*rename one"):
        find_scans(file)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_labels_by_models_judge_nothing(listed, part):
    file = changed(listed, lambda content: content[part][0].update(label_by="models"))
    with pytest.raises(DataError, match=rf"split_1.json: {part}: the label of .* was made by models"):
        find_scans(file)


def test_a_patient_who_is_learned_from_is_not_kept_apart(listed):
    file = changed(listed, lambda content: content["test"][0].update(patient="x"))
    with pytest.raises(DataError, match=r"split_1.json: c04 is kept apart, and c01 of the same patient is learned"):
        find_scans(file)


def renamed(listed, names):
    """The datalist with other names for its scans' images, by the old ones."""
    for old, new in names.items():
        (listed.parent / "images" / f"{old}.nii.gz").rename(listed.parent / "images" / f"{new}.nii.gz")
        listed.write_text(listed.read_text().replace(f"images/{old}.nii.gz", f"images/{new}.nii.gz"))
    return listed


NOTE = (
    "Note: by their names, {} (kept apart) and {} (learned from) are of one patient{}: figures would be too good; move "
    'one of them, or give each its "patient" in the datalist\n'
)


def test_a_patient_who_by_names_alone_is_in_two_parts_is_noted(listed, capsys):
    find_scans(renamed(listed, {"c02": "p7_visit1", "c03": "p7_visit2"}))
    assert capsys.readouterr().out == NOTE.format("p7_visit2", "p7_visit1", "")
    find_scans(renamed(listed, {"c04": "p8_visit3", "c05": "p8_visit1"}))
    assert capsys.readouterr().out == NOTE.format("p7_visit2", "p7_visit1", ", and so it is with 1 more")


def test_what_is_said_of_both_comes_before_their_names(listed, capsys):
    renamed(listed, {"c02": "p7_visit1", "c03": "p7_visit2"})
    find_scans(changed(listed, lambda content: content["validation"][0].update(patient="a")))
    assert capsys.readouterr().out == NOTE.format("p7_visit2", "p7_visit1", "")
    find_scans(changed(listed, lambda content: content["training"][2].update(patient="b")))
    assert capsys.readouterr().out == ""


def test_a_name_that_all_scans_share_is_no_patients(listed, capsys):
    find_scans(renamed(listed, {f"c0{index}": f"site2_scan_00{index}" for index in range(6)}))
    assert capsys.readouterr().out.startswith("Note: by their names all 6 scans would be of one patient, site2.")


def test_scans_of_one_site_are_of_many_patients(tmp_path):
    write_cases(tmp_path, labelled=6, shape=(5, 7, 11), boxes=BOXES)
    for folder in ("images", "labels"):
        for file in (tmp_path / folder).iterdir():
            file.rename(file.with_name(file.name.replace("c0", "2019_scan_00")))
    assert len(set(find_scans(tmp_path).patients.values())) == 6


def test_facts_change_with_a_label_and_with_a_part(listed):
    before = find_scans(listed).facts()
    assert before == find_scans(listed).facts() == json.loads(json.dumps(before))
    shutil.copy(listed.parent / "labels" / "c03.nii.gz", listed.parent / "labels" / "c01.nii.gz")
    write_cases(
        listed.parent / "more", labelled=1, unlabelled=0, shape=(5, 7, 11), boxes={1: box((0, 3), (1, 4), (2, 5))}
    )
    shutil.copy(listed.parent / "more" / "labels" / "c00.nii.gz", listed.parent / "labels" / "c01.nii.gz")
    after = find_scans(changed(listed, lambda content: content["test"].append(content["validation"].pop()))).facts()
    assert {name for name in before if before[name] != after[name]} == {"c01", "c03"}


def test_the_decathlons_own_file_is_no_datalist_and_its_folder_is_named(tmp_path):
    write_cases(tmp_path, labelled=1, unlabelled=1, shape=(5, 7, 11), boxes=BOXES)
    items = [{"image": "./images/c00.nii.gz", "label": "./labels/c00.nii.gz"}]
    content = {
        "name": "T",
        "labels": {"0": "background", "1": "block"},
        "training": items,
        "test": ["./images/c01.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"dataset\.json: .* give its folder, {tmp_path}$"):
        find_scans(tmp_path / "dataset.json")
