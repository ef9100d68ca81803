import numpy as np
import pytest

from aps_components.inference.boxed import is_hardly, outer_parts, pieces_within, sides_of, spans
from aps_components.prompts import Box

SIZE = (17, 24, 40)


def block(*sides):
    """A mask of SIZE with one block in it."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


def test_both_corners_are_inside():
    assert sides_of(Box(1, (2, 3, 4), (2, 5, 9))) == (slice(2, 3), slice(3, 6), slice(4, 10))


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        (((0, 17), (0, 24), (0, 40)), True),
        (((1, 16), (2, 22), (4, 36)), True),  # a tenth of each side, and a voxel
        (((1, 16), (2, 22), (5, 40)), False),
        (((1, 16), (2, 22), (0, 35)), False),
        (((0, 0), (0, 0), (0, 0)), False),
    ],
)
def test_a_class_spans_a_box_from_side_to_side(sides, expected):
    assert spans(block(*sides)) == expected


def test_a_slice_of_a_box_is_spanned_along_its_plane():
    assert spans(np.ones((1, 5, 7), dtype=bool))


def test_hardly_is_less_than_a_twentieth():
    assert is_hardly(np.arange(1000) < 49)
    assert not is_hardly(np.arange(1000) < 50)


def test_pieces_that_lie_in_a_region_as_a_whole():
    within, across = block((2, 5), (2, 5), (2, 5)), block((2, 5), (2, 5), (8, 30))
    inside = block((0, 10), (0, 10), (0, 20))
    np.testing.assert_array_equal(pieces_within(within | across, inside), within)


def test_of_what_is_new_the_thick_parts_that_reach_out_count():
    there = block((4, 12), (4, 20), (4, 20))
    half = block((4, 12), (4, 20), (20, 36))
    skin = block((3, 4), (4, 20), (4, 20))  # thin, along the border
    hole = block((5, 11), (9, 15), (9, 15))  # thick, and within what is there
    there &= ~hole
    found = outer_parts(half | skin | hole, there)
    assert (found & half).sum() > 0.9 * half.sum()
    assert not (found & hole).any()
    assert not (found & skin)[:, 5:19, 5:18].any()
