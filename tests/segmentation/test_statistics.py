import csv
import json

import nibabel as nib
import numpy as np
import pytest

from aps_components.data.geometry import Geometry
from aps_components.segmentation import class_statistics
from aps_components.segmentation.statistics import load_channels, read_statistics, write_table

SHAPE, SPACING = (17, 24, 40), (0.7, 0.9, 3.0)
VOXEL_ML = 0.7 * 0.9 * 3.0 / 1000
LABELS = {0: "background", 1: "box", 2: "line", 3: "nowhere"}


@pytest.fixture(scope="module")
def label_map():
    volume = np.zeros(SHAPE, dtype=np.uint8)
    volume[2:7, 3:14, 5:12] = 1  # 5 x 11 x 7
    volume[16, 23, :] = 2  # 40 voxels along the last edge
    return volume


def ramp():
    """x + 100 y + 10000 z: a swapped axis gives other figures."""
    x, y, z = np.meshgrid(*(np.arange(size) for size in SHAPE), indexing="ij")
    return (x + 100.0 * y + 10_000.0 * z).astype(np.float32)


def measured(label_map, **channels):
    return class_statistics(label_map, channels, voxel_ml=VOXEL_ML, labels=LABELS)


def test_volume_is_voxels_times_their_size(label_map):
    box, line, nowhere = measured(label_map, image=ramp())
    assert (box["label"], box["name"], box["voxels"]) == (1, "box", 385)
    assert box["volume_ml"] == pytest.approx(385 * 1.89 / 1000)
    assert (line["voxels"], line["volume_ml"]) == (40, pytest.approx(0.0756))
    assert (nowhere["voxels"], nowhere["volume_ml"]) == (0, 0.0)


def test_intensities_are_those_of_the_closed_form(label_map):
    box, line, nowhere = measured(label_map, image=ramp())
    # The mean of a ramp over a box is its value in the middle; the variance of n steps of d is d^2 (n^2 - 1) / 12.
    assert box["intensity"]["image"] == pytest.approx(
        {
            "mean": 4 + 100 * 8 + 10_000 * 8,
            "std": np.sqrt((24 + 100**2 * 120 + 10_000**2 * 48) / 12),
            "min": 2 + 100 * 3 + 10_000 * 5,
            "max": 6 + 100 * 13 + 10_000 * 11,
        }
    )
    assert line["intensity"]["image"]["mean"] == pytest.approx(16 + 2300 + 10_000 * 19.5)
    assert nowhere["intensity"]["image"] == {"mean": None, "std": None, "min": None, "max": None}


def test_channels_are_measured_each(label_map):
    box, *_ = measured(label_map, t1=ramp(), t2=np.full(SHAPE, -3, dtype=np.float32))
    assert list(box["intensity"]) == ["t1", "t2"]
    assert box["intensity"]["t2"] == {"mean": -3.0, "std": 0.0, "min": -3.0, "max": -3.0}


@pytest.mark.parametrize("turned", [False, True])
def test_a_voxel_has_the_volume_of_its_edges_whatever_its_direction(turned):
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, -1]]) if turned else np.diag([-1.0, -1.0, 1.0])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * SPACING, (5, -7, 11)
    assert Geometry(SHAPE, 1, affine).voxel_mm3 / 1000 == pytest.approx(VOXEL_ML)


def save(path, array):
    nib.save(nib.Nifti1Image(array, np.diag([*SPACING, 1.0])), path)
    return str(path)


@pytest.mark.parametrize(
    ("modalities", "names"), [(["t1n", "t2f"], ["t1n", "t2f"]), (None, ["channel 0", "channel 1"]), (["t1n"], None)]
)
def test_channels_of_a_4d_file_are_those_of_several_files(tmp_path, modalities, names):
    first, second = ramp(), -ramp()
    whole = save(tmp_path / "a.nii.gz", np.stack([first, second], axis=-1))
    parts = [save(tmp_path / "a-t1n.nii.gz", first), save(tmp_path / "a-t2f.nii.gz", second)]
    for files in ([whole], parts):
        channels = load_channels(files, modalities)
        assert list(channels) == (names or ["channel 0", "channel 1"])
        np.testing.assert_array_equal(list(channels.values()), [first, second])
    assert list(load_channels(parts[:1], None)) == ["image"]


def rows(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_table_has_a_line_per_scan_and_class(tmp_path, label_map):
    scans = [{"scan": name, "classes": measured(label_map, image=ramp())} for name in ("b", "a")]
    write_table(tmp_path / "t.csv", scans)
    table = rows(tmp_path / "t.csv")
    assert list(table[0]) == ["scan", "label", "class", "voxels", "volume_ml", "mean", "std", "min", "max"]
    assert [(row["scan"], row["class"]) for row in table] == [(s, c) for s in "ab" for c in ("box", "line", "nowhere")]
    assert float(table[0]["volume_ml"]) == pytest.approx(385 * VOXEL_ML)
    assert (table[2]["voxels"], table[2]["volume_ml"], table[2]["mean"]) == ("0", "0.0", "")


def test_several_channels_have_columns_each(tmp_path, label_map):
    write_table(tmp_path / "t.csv", [{"scan": "a", "classes": measured(label_map, t1=ramp(), t2=ramp())}])
    assert list(rows(tmp_path / "t.csv")[0])[5:] == [
        f"{m} {c}" for c in ("t1", "t2") for m in ("mean", "std", "min", "max")
    ]


@pytest.mark.parametrize("content", ["{oops", "[]", '{"classes": 3}', None])
def test_what_is_no_statistics_is_not_read_as_such(tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    assert read_statistics(tmp_path / "a.json") is None
    (tmp_path / "b.json").write_text(json.dumps({"scan": "b", "classes": []}))
    assert read_statistics(tmp_path / "b.json") == {"scan": "b", "classes": []}
