"""Clicks on scans whose label is not whole."""

import math
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from aps_components.evaluation.clicks.scan import Annotator
from aps_components.evaluation.clicks.table import mean_curve, summarise
from aps_components.evaluation.listening import ALTERATIONS
from aps_components.evaluation.metrics import Region

SHAPE = (17, 24, 40)
REGIONS = [Region("one", (1,)), Region("two", (2,))]


class Obedient:
    """Answers with class 2 everywhere, and sets what is clicked."""

    def set_image(self, _scan):
        self.label_map = np.full(SHAPE, 2, dtype=np.uint8)

    def predict(self, points=()):
        for voxel, label in points:
            self.label_map[voxel] = label
        return SimpleNamespace(label_map=self.label_map.copy())


def corrected(folder, *, around=0, **said):
    """Class 1 in a part of one slice, and another class around it."""
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[..., 10] = around
    label[3:9, 5:11, 10] = 1
    nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "label.nii.gz")
    annotator = Annotator(
        predictor=Obedient(), num_classes=3, regions=REGIONS, clicks=4, listening=lambda _: pytest.fail("measured")
    )
    return annotator.correct({"image": "image.nii.gz", "label": str(folder / "label.nii.gz"), **said})


def test_only_labelled_slices_are_clicked_and_measured(tmp_path):
    """Of 17 x 24 voxels 36 are class 1 and the others 2: a click turns one of the 36, which all were called 2."""
    record = corrected(tmp_path, around=2, labeled_slices=[10])
    assert record["obeyed"] == [True] * 4
    assert all(math.isnan(value) for value in record["nsd"])
    assert record["listening"] is None
    expected = [100 * np.mean([2 * clicks / (36 + clicks), 2 * 372 / (372 + 408 - clicks)]) for clicks in range(5)]
    np.testing.assert_allclose(record["dice"], expected)


def test_a_class_that_nobody_drew_may_be_where_the_background_is(tmp_path):
    """Wrong is the answer where class 1 is alone, and class 2 is not measured."""
    record = corrected(tmp_path, labeled_classes=[1])
    assert len(record["obeyed"]) == 4
    expected = [100 * 2 * clicks / (36 + clicks) for clicks in range(5)]
    np.testing.assert_allclose(record["dice"], expected)


def test_what_a_label_does_not_tell_is_left_out_of_the_mean():
    curve = mean_curve([[math.nan], [80.0, 90.0]], clicks=2)
    np.testing.assert_array_equal(curve, [80, 90, 90])
    assert np.isnan(mean_curve([[math.nan]], clicks=1)).all()


def test_scans_with_whole_labels_tell_whether_the_model_listens():
    scan = {"dice": [50.0], "nsd": [50.0], "obeyed": [], "kept": [], "harmful": [], "first_ms": 1.0, "click_ms": []}
    heard = {name: {"changed": 0.5, "dice_b": 40.0} for name in ALTERATIONS}
    figures = summarise([{**scan, "listening": None}, {**scan, "listening": heard}], clicks=1)
    assert figures["listening"] == heard
