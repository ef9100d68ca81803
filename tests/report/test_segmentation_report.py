"""The overview of a folder of segmentations, from files as aps segment leaves them."""

import json

import nibabel as nib
import numpy as np
import pytest
from reports import read_report

from aps_components.evaluation.preview import save_preview
from aps_components.report import write_segmentation_report
from aps_components.segmentation import Segmentation
from aps_components.segmentation.outputs import Outputs
from aps_components.segmentation.statistics import class_statistics, write_statistics

SHAPE, AFFINE = (17, 24, 40), np.diag([1.5, 1.5, 10, 1])
VOXEL_ML = 0.0225
LABELS = {0: "background", 1: "<b>wall</b>", 2: "pool"}
EVIL = "<img src=x onerror=alert(1)>"


def write_result(folder, name, *, side=6, epistemic=None, classes=2, preview=False):
    """A cuboid of each class; what aps segment writes of it."""
    label_map = np.zeros(SHAPE, dtype=np.uint8)
    for label in range(1, classes + 1):
        label_map[8 * label - 7 : 8 * label - 1, 3 : 3 + side, 5:15] = label
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(label_map, AFFINE), folder / f"{name}_seg.nii.gz")
    if epistemic is not None:
        doubts = np.where(label_map > 0, epistemic, 99).astype(np.float32)
        nib.save(nib.Nifti1Image(doubts, AFFINE), folder / f"{name}_epistemic.nii.gz")
    image = np.random.default_rng(0).normal(size=SHAPE)
    entries = class_statistics(label_map, {"image": image}, voxel_ml=VOXEL_ML, labels=LABELS)
    made_by = {"bundle": "mine", "version": "0.1.0", "settings": {"overlap": 0.25}}
    write_statistics(
        folder / f"{name}_statistics.json", {"scan": name, "classes": entries, "made_by": made_by, "notes": []}
    )
    if preview:
        volumes = {entry["label"]: (entry["name"], entry["volume_ml"]) for entry in entries}
        save_preview(folder / f"{name}_preview.png", image=image, label_map=label_map, affine=AFFINE, volumes=volumes)


def report_of(folder, **failed):
    return read_report(write_segmentation_report(Segmentation(Outputs(folder), failed=failed)))


def column(report, index=0):
    return [row[index] for row in report.table("scan", f"{LABELS[1]}, ml")]


def test_the_most_uncertain_scan_stands_first(tmp_path):
    for name, doubt in (("a", 0.1), (EVIL, 0.3), ("c", 0.2)):
        write_result(tmp_path / "out", name, epistemic=doubt)
    write_result(tmp_path / "out", "without map")
    report = report_of(tmp_path / "out")
    assert column(report) == [EVIL, "c", "a", "without map"]
    assert column(report, 3) == ["0.3", "0.2", "0.1", "\N{EN DASH}"]
    assert column(report, 1) == ["8.1"] * 4  # 6 x 6 x 10 voxels
    assert not {"img", "b"} & set(report.tags)


def test_without_maps_unusual_volumes_stand_first_and_it_is_said_that_doubt_is_unknown(tmp_path):
    for number, side in enumerate((6, 6, 7, 5, 6, 7, 18)):
        write_result(tmp_path / "out", f"s{number}", side=side)
    write_result(tmp_path / "out", "empty", classes=1)
    report = report_of(tmp_path / "out")
    rows = {row[0]: row[-1] for row in report.table("scan", f"{LABELS[1]}, ml")}
    assert list(rows)[:3] == ["empty", "s6", "s0"]
    assert rows["empty"] == "pool: none"
    assert rows["s6"] in (f"{LABELS[1]}: unusual volume", "pool: unusual volume")
    assert {said for name, said in rows.items() if name not in ("empty", "s6")} == {""}
    assert "How uncertain the model was is unknown" in report.words


def test_of_few_scans_none_is_unusual(tmp_path):
    for number, side in enumerate((2, 6, 18)):
        write_result(tmp_path / "out", f"s{number}", side=side)
    assert set(column(report_of(tmp_path / "out"), -1)) == {""}


def test_scans_that_failed_are_named_first_without_the_folder_they_lie_in(tmp_path):
    write_result(tmp_path / "out", "a")
    why = "/data/DOE JANE/<script>.nii.gz: 3 voxels are NaN; clip them"
    report = report_of(tmp_path / "out", **{"<script>": why, "b": "OUT/b_seg.nii.gz is by another model"})
    assert report.titles[1] == "Not segmented"
    assert report.table("scan", "why") == [
        ["<script>", "3 voxels are NaN; clip them"],
        ["b", "b_seg.nii.gz is by another model"],
    ]
    assert "DOE" not in report.source
    assert "1 scan(s) segmented, 2 not" in report.words


def test_pictures_are_inside_and_in_the_tables_order(tmp_path):
    for name, doubt in (("a", 0.1), ("b", 0.2)):
        write_result(tmp_path / "out", name, epistemic=doubt, preview=True)
    (tmp_path / "out" / "c_preview.png").write_bytes(b"\x89PNG of nothing")
    write_result(tmp_path / "out", "c")
    pictures = report_of(tmp_path / "out").pictures("three planes")
    assert [alt.partition(" ")[0] for alt, _ in pictures] == ["b", "a"]
    assert all(300 < picture.width <= 900 for _, picture in pictures)


def test_scans_of_earlier_calls_are_there_and_strangers_files_are_not(tmp_path):
    write_result(tmp_path / "out", "a")
    (tmp_path / "out" / "x_statistics.json").write_text(json.dumps({"scan": "x", "classes": [{"name": "y"}]}))
    assert column(report_of(tmp_path / "out")) == ["a"]


def test_a_broken_map_is_no_doubt_and_stops_nothing(tmp_path):
    write_result(tmp_path / "out", "a", epistemic=0.1)
    write_result(tmp_path / "out", "b", epistemic=0.2)
    (tmp_path / "out" / "b_epistemic.nii.gz").write_bytes(b"no map")
    assert column(report_of(tmp_path / "out")) == ["a", "b"]


def test_beside_a_single_file_the_report_has_its_name(tmp_path):
    write_result(tmp_path, "mine")
    (tmp_path / "mine_seg.nii.gz").rename(tmp_path / "mine.nii.gz")
    content = json.loads((tmp_path / "mine_statistics.json").read_text())
    result = Segmentation(Outputs(tmp_path, "mine"), statistics=[{**content, "scan": "scan"}])
    assert write_segmentation_report(result) == tmp_path / "mine_report.html"


def test_what_made_them_is_said(tmp_path):
    write_result(tmp_path / "out", "a")
    words = report_of(tmp_path / "out").words
    assert all(word in words for word in ("mine", "0.1.0", "settings, overlap", "0.25"))


def test_a_page_of_others_stays(tmp_path):
    write_result(tmp_path / "out", "a")
    (tmp_path / "out" / "report.html").write_text("<html>mine</html>")
    with pytest.raises(FileExistsError, match="move it away"):
        report_of(tmp_path / "out")
