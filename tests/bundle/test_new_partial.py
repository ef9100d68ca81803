"""Every way into a bundle knows labels that are not whole, as far as its settings and its datalist say."""

import json

import nibabel as nib
import numpy as np
import pytest
from case_folders import box, write_cases
from workflows import run_workflow

from aps_components.bundle.block import DatasetBlock
from aps_components.bundle.new import look_at, new_bundle
from aps_components.data.case_folder import find_cases
from aps_components.data.datalist import load_datalist
from aps_components.data.errors import DataError
from aps_components.data.fingerprint import take_fingerprint
from aps_components.data.scans import find_scans
from aps_components.data.to_judge import dataset_to_judge

SHAPE = (17, 24, 40)
BOXES = {1: box((2, 12), (3, 20), (10, 30))}


def without_slices(file, *, value, kept=(12, 13, 20)):
    label = nib.load(file)
    voxels = np.asarray(label.dataobj).copy()
    voxels[..., [n for n in range(voxels.shape[2]) if n not in kept]] = value
    nib.save(nib.Nifti1Image(voxels, label.affine), file)


@pytest.fixture
def nnunet(tmp_path):
    """nnU-Net's raw folder with its ignore label, 2, in one case of two."""
    write_cases(tmp_path / "data", labelled=2, unlabelled=1, shape=SHAPE, boxes=BOXES, layout="nnunet")
    without_slices(tmp_path / "data" / "labelsTr" / "c00.nii.gz", value=2)
    labels = {"background": 0, "liver": 1, "ignore": 2}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({"labels": labels}))
    return tmp_path / "data"


def test_nnunets_ignore_label_is_taken(nnunet, tmp_path, capsys):
    bundle = new_bundle("mine", data=nnunet, out=tmp_path / "bundle")
    block = DatasetBlock.read(bundle / "configs" / "train.json")
    assert (block.labels, block.label_values, block.ignore) == ({"0": "background", "1": "liver"}, None, 2)
    share = 100 * 3 / SHAPE[2]
    assert f"1 of the labels are not whole: {share:.1f} % of their voxels are labelled" in capsys.readouterr().out
    datalist = load_datalist(nnunet, default=bundle / "configs" / "datalist.json", ignore=block.ignore)
    assert {item["ignore"] for item in datalist.labeled} == {2}


def test_a_value_may_be_named_on_the_command_line(tmp_path):
    write_cases(tmp_path, labelled=2, unlabelled=0, shape=SHAPE, boxes=BOXES)
    without_slices(tmp_path / "labels" / "c01.nii.gz", value=255)
    found = look_at(find_cases(tmp_path), names={1: "liver", 255: "ignore"})
    assert (found.plan.block.ignore, list(found.plan.block.labels.values())) == (255, ["background", "liver"])
    with pytest.raises(DataError, match="name one value"):
        look_at(find_cases(tmp_path), names={0: "ignore", 1: "liver"})


def test_empty_slices_may_be_said_to_be_unlabelled(tmp_path, capsys):
    write_cases(tmp_path / "data", labelled=2, unlabelled=1, shape=SHAPE, boxes=BOXES)
    options = {"data": tmp_path / "data", "validation": 0}
    bundle = new_bundle("mine", out=tmp_path / "bundle", labeled_slices="drawn", **options)
    datalist = json.loads((bundle / "configs" / "datalist.json").read_text())
    assert [case["labeled_slices"] for case in datalist["training"]] == ["drawn", "drawn"]
    assert "labeled_slices" not in datalist["unlabeled"][0]
    assert "2 of the labels are not whole: 50.0 % of their voxels" in capsys.readouterr().out
    with pytest.raises(ValueError, match="labeled_slices 'some'"):
        new_bundle("mine", out=tmp_path / "other", labeled_slices="some", **options)


def test_facts_are_of_labelled_voxels_alone(nnunet):
    partly, whole = take_fingerprint(find_cases(nnunet).told(ignore=2), progress=False).labelled
    assert partly.classes[1].voxels == 10 * 17 * 3
    assert partly.labeled_voxels == 17 * 24 * 3
    assert (partly.covers_scan, whole.covers_scan) == (False, True)
    assert list(partly.classes) == [1]


def test_pieces_are_counted_in_whole_labels_alone(tmp_path):
    """Slices of one piece are many pieces."""
    write_cases(tmp_path, labelled=2, unlabelled=0, shape=SHAPE, boxes=BOXES)
    without_slices(tmp_path / "labels" / "c01.nii.gz", value=255)
    names = {1: "liver", 255: "ignore"}
    assert look_at(find_cases(tmp_path), names=names).plan.block.largest_component
    without_slices(tmp_path / "labels" / "c00.nii.gz", value=255)
    choice = look_at(find_cases(tmp_path), names=names).plan.choices["largest_component"]
    assert not choice.value
    assert "no label of a whole scan" in choice.reason


def test_a_class_that_some_scans_lack_is_as_large_as_elsewhere(tmp_path):
    write_cases(tmp_path, labelled=2, unlabelled=0, shape=SHAPE, boxes={**BOXES, 2: box((13, 15), (3, 5), (1, 3))})
    without = tmp_path / "labels" / "c01.nii.gz"
    label = np.asarray(nib.load(without).dataobj) % 2
    nib.save(nib.Nifti1Image(label, nib.load(without).affine), without)
    entries = [{"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"} for name in ("c00", "c01")]
    entries[1]["labeled_classes"] = ["one"]
    content = {"name": "x", "labels": {"0": "background", "1": "one", "2": "two"}, "training": entries}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    folder = find_scans(tmp_path).folder
    assert [case.said for case in folder.cases] == [{}, {"labeled_classes": [1]}]
    fingerprint = take_fingerprint(folder, progress=False)
    assert fingerprint.voxels_of(1) == 2 * 10 * 17 * 20
    assert fingerprint.voxels_of(2) == 2 * 2 * 2 * 2
    assert folder.cases[1].item == entries[1] | {"labeled_classes": [1]}


def test_a_datalists_value_goes_on(tmp_path):
    write_cases(tmp_path, labelled=1, unlabelled=0, shape=SHAPE, boxes=BOXES)
    entries = [{"image": "images/c00.nii.gz", "label": "labels/c00.nii.gz"}]
    content = {"name": "x", "labels": {"0": "background", "1": "one"}, "ignore": 9, "training": entries}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    assert find_scans(tmp_path).folder.ignore == 9
    entries[0]["ignore"] = 0
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"labels/c00\.nii\.gz: ignore 0 is class 0 as well"):
        find_scans(tmp_path)


def test_scans_to_judge_by_bring_their_value(nnunet, tmp_path):
    labels = {"0": "background", "1": "liver"}
    folder = dataset_to_judge(nnunet, known=tmp_path / "none.json", labels=labels, work=tmp_path / "work")
    assert {item["ignore"] for item in load_datalist(folder, counts_at_most=True).test} == {2}


@pytest.mark.parametrize(
    ("block", "fault"),
    [
        ({"ignore": 1}, "ignore 1 is class 1 as well"),
        ({"ignore": 0}, "ignore 0 is class 0 as well"),
        ({"ignore": 4, "label_values": {"4": 1}}, "ignore 4 is class 1 as well"),
        ({"ignore": -1}, "ignore"),
        ({"ignore": "255", "label_values": None}, "ignore"),
    ],
)
def test_a_value_that_is_a_class_as_well_is_refused(block, fault):
    with pytest.raises(ValueError, match=fault):
        DatasetBlock(labels={"0": "background", "1": "liver"}, **block)


def test_zero_may_be_ignored_where_the_background_has_a_value_of_its_own():
    values = {"1": 0, "2": 1}
    assert DatasetBlock(labels={"0": "background", "1": "liver"}, ignore=0, label_values=values).ignore == 0


@pytest.mark.slow
def test_the_bundle_trains_and_is_judged_on_what_is_labelled(nnunet, tmp_path):
    """A training of two iterations as it is run, and its validation on a scan of which three slices are labelled."""
    bundle = new_bundle("mine", data=nnunet, out=tmp_path / "bundle", budget="cpu", validation=0)
    datalist = json.loads((bundle / "configs" / "datalist.json").read_text())
    datalist["validation"] = [datalist["training"].pop(0)]
    datalist["training"][0]["labeled_slices"] = [0, 12, 13]
    (bundle / "configs" / "datalist.json").write_text(json.dumps(datalist))
    options = {
        **{"bundle_root": str(bundle), "dataset_dir": str(nnunet), "device": "cpu", "precision": "fp32"},
        **{"network_def#filters": 4, "network_def#sam_variant": "tiny", "ckpt_dir": str(tmp_path / "models")},
        **{"labeled_batch": 1, "unlabeled_batch": 1, "output_dir": str(tmp_path / "training")},
        **{"epochs": 2, "epoch_length": 1, "warmup_epochs": 1, "val_interval": 2},
    }
    run_workflow("train.json", kind="train", options=options)
    lines = [json.loads(line) for line in (tmp_path / "training" / "history.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["losses"]["loss"]) for line in lines)
    assert 0 <= lines[1]["validation"]["dice_average"] <= 1
