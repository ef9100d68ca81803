import numpy as np
import pytest

from aps_components.data import DataError
from aps_components.data.partial import NOT_LABELED
from aps_components.evaluation.metrics import Region
from aps_components.evaluation.truth import Truth, whole_labels


def truth(*values, undrawn=()):
    label_map = np.array(values, dtype=np.uint8).reshape(1, 1, -1)
    return Truth(label_map=label_map, affine=np.eye(4), spacing=[1.0] * 3, undrawn=undrawn)


def test_an_answer_is_right_where_nobody_said_anything():
    known = truth(NOT_LABELED, 0, 1, NOT_LABELED)
    answer = np.array([[[1, 1, 1, 2]]])
    np.testing.assert_array_equal(known.completed(answer), [[[1, 0, 1, 2]]])
    np.testing.assert_array_equal(known.certain, [[[False, True, True, False]]])
    assert not known.covers_scan
    assert not known.is_whole


def test_the_background_may_be_a_class_that_nobody_drew():
    known = truth(0, 0, 0, 1, undrawn=(2,))
    np.testing.assert_array_equal(known.completed(np.array([[[0, 1, 2, 2]]])), [[[0, 0, 2, 1]]])
    assert known.covers_scan
    assert not known.is_whole
    assert not known.certain.any()
    assert known.tells(Region("drawn", (1,)))
    assert not known.tells(Region("union", (1, 2)))


def test_figures_of_whole_scans_need_one():
    items = [{"label": "a.nii.gz", "labeled_slices": [1]}]

    def load(_item):
        label = np.full((1, 2, 2, 2), NOT_LABELED, dtype=np.uint8).view(_Volume)
        return {"label": label}

    with pytest.raises(DataError, match=r"a\.nii\.gz: no label of these scans is whole"):
        whole_labels(items, load)
    assert whole_labels([{"label": "b.nii.gz"}], load) == [{"label": "b.nii.gz"}]


class _Volume(np.ndarray):
    affine, pixdim = np.eye(4), (1.0, 1.0, 1.0)
