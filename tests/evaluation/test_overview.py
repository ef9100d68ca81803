import json
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest

from aps_components.evaluation import overview_from_files

SHAPE = (11, 13, 17)  # sizes that cannot be confused
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
rng = np.random.default_rng(0)
IMAGE = rng.normal(size=SHAPE).astype(np.float32)
SEGMENTATION = (IMAGE > 0).astype(np.uint8)
MAPS = {name: rng.random(SHAPE).astype(np.float32) for name in ("epistemic", "aleatoric")}


def write(path, array):
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "images" / "scan.nii.gz", IMAGE)
    write(tmp_path / "truth.nii.gz", 1 - SEGMENTATION)
    write(tmp_path / "out" / "scan_seg.nii.gz", SEGMENTATION)
    return tmp_path


def add_maps(folder):
    for name, array in MAPS.items():
        write(folder / "out" / f"scan_{name}.nii.gz", array)
    points = [{"label": 1, "voxel": [3.0, 4.5, 6.0]}, {"label": 0, "voxel": [0.0, 0.0, 1.0]}]
    (folder / "out" / "scan_prompts.json").write_text(json.dumps({"scan": "scan", "points": points}))


def draw(folder, **options):
    """The arguments of the picture."""
    with patch("aps_components.evaluation.overview.save_overview") as save:
        overview_from_files(
            folder / "o.png", image=folder / "images" / "scan.nii.gz", output_dir=folder / "out", **options
        )
    return save.call_args.kwargs


def test_everything_that_inference_wrote_goes_into_the_picture(folder):
    add_maps(folder)
    given = draw(folder, truth=folder / "truth.nii.gz")
    np.testing.assert_array_equal(given["image"], IMAGE)
    np.testing.assert_array_equal(given["prediction"], SEGMENTATION)
    np.testing.assert_array_equal(given["truth"], 1 - SEGMENTATION)
    for name, array in MAPS.items():
        np.testing.assert_array_equal(given[name], array)
    assert given["epistemic_unit"] == given["aleatoric_unit"] == "nats"
    assert given["points"] == [(1, 3.0, 4.5, 6.0), (0, 0.0, 0.0, 1.0)]
    assert given["spacing"] == [1.0, 1.5, 2.0]
    assert given["title"] == "scan"


def test_maps_prompts_and_truth_may_be_missing(folder):
    given = draw(folder)
    assert given["truth"] is given["epistemic"] is given["aleatoric"] is given["points"] is None


def test_classes_have_the_names_that_were_given_or_that_the_files_say(folder):
    points = [{"label": 3, "name": "vein", "voxel": [1.0, 2.0, 3.0]}, {"label": 0, "voxel": [0.0, 0.0, 1.0]}]
    (folder / "out" / "scan_prompts.json").write_text(json.dumps({"points": points}))
    statistics = {"classes": [{"label": 1, "name": "atrium"}, {"label": 2, "name": "wall"}]}
    (folder / "out" / "scan_statistics.json").write_text(json.dumps(statistics))
    assert draw(folder)["class_names"] == {1: "atrium", 2: "wall", 3: "vein"}
    assert draw(folder, labels={1: "left atrium"})["class_names"] == {1: "left atrium", 2: "wall", 3: "vein"}


def test_first_channel_of_a_scan_with_several(folder):
    write(folder / "images" / "scan.nii.gz", np.stack([IMAGE, IMAGE + 1], axis=-1))
    np.testing.assert_array_equal(draw(folder)["image"], IMAGE)


def test_picture_is_written(folder):
    add_maps(folder)
    path = overview_from_files(
        folder / "o.png",
        image=folder / "images" / "scan.nii.gz",
        output_dir=folder / "out",
        truth=folder / "truth.nii.gz",
    )
    assert path == folder / "o.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_scan_without_a_segmentation_is_refused(folder):
    (folder / "out" / "scan_seg.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"scan_seg.nii.gz is missing: segment .*run inference"):
        draw(folder)


def test_the_published_maps_are_called_what_they_are(folder):
    for name in ("softmax_variance", "noise_variance"):
        write(folder / "out" / f"scan_{name}.nii.gz", MAPS["epistemic"])
    given = draw(folder)
    assert given["epistemic"] is not None
    assert given["aleatoric"] is not None
    assert "aleatoric" not in given["aleatoric_title"]
    assert given["aleatoric_unit"] == "variance"
