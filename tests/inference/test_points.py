import torch

from aps_components.data.partial import NOT_LABELED, table_of
from aps_components.inference import PromptPoint
from aps_components.inference.points import in_their_class

D, H, W = 3, 5, 7  # sizes that cannot be confused
ONE, TWO, BACKGROUND, UNLABELED = (1, 2, 3), (2, 4, 6), (0, 1, 2), (2, 0, 5)


def label():
    volume = torch.zeros(D, H, W, dtype=torch.uint8)
    volume[ONE], volume[TWO], volume[UNLABELED] = 1, 2, NOT_LABELED
    return volume


def points(*places):
    return [PromptPoint(value, voxel, 1.0) for value, voxel in places]


def test_points_on_voxels_of_their_class_and_of_others():
    given = points((1, ONE), (1, TWO), (2, TWO), (0, BACKGROUND), (0, ONE), (1, UNLABELED))
    assert in_their_class(given, label()) == [True, False, True, True, False]
    assert in_their_class(given, label().numpy()) == [True, False, True, True, False]


def test_classes_that_count_as_one():
    assert in_their_class(points((1, TWO), (2, BACKGROUND)), label(), together=(1, 2)) == [True, False]


def test_background_beside_a_class_that_nobody_drew_tells_nothing():
    given = points((1, ONE), (0, BACKGROUND), (2, BACKGROUND))
    assert in_their_class(given, label(), undrawn=table_of([2])) == [True]
    assert in_their_class(given, label(), undrawn=table_of([])) == [True, True, False]
