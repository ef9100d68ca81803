import numpy as np
import pytest
from tiny_model import AFFINE, SHAPE

from aps_components.interactive.words import MOST_DRAWN, MOST_MARKS, Listener
from aps_components.prompts import Box, Click, Scribble

NAMES = {"background": 0, "kidney": 1}


def class_value(label):
    if label not in NAMES and label not in NAMES.values():
        raise ValueError(f"there is no class {label!r}")
    return NAMES.get(label, label)


@pytest.fixture
def listener():
    return Listener(SHAPE, AFFINE, class_value=class_value)


def test_a_place_in_mm_is_the_voxel_that_holds_it(listener):
    voxel = (30, 4, 18)
    place = (AFFINE @ [*voxel, 1])[:3]
    for off in (-0.4, 0.4):
        near = (AFFINE @ [*np.add(voxel, [off, -off, off]), 1])[:3]
        assert listener.words(points=[(near, "kidney")], frame="world").clicks == [Click(1, voxel)]
    assert listener.words(points=[(voxel, 1)]).clicks == listener.words(points=[(place, 1)], frame="world").clicks


def test_boxes_and_scribbles(listener):
    said = listener.words(
        boxes=[(((9, 2, 3), (4, 8, 3)), "kidney")], scribbles=[([(1, 2, 3), (1.2, 2, 3), (2, 2, 3)], 0)]
    )
    assert said.boxes == [Box(1, (4, 2, 3), (9, 8, 3))]
    assert said.scribbles == [Scribble(0, [(1, 2, 3), (2, 2, 3)])]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"points": [((31, 0, 0), 1)]}, r"voxel \[31.0, 0.0, 0.0\] lies outside the scan: .* \[30, 42, 18\]"),
        ({"points": [((-1, 0, 0), 1)]}, "outside the scan"),
        ({"points": [((3, 4, 5), 1)], "frame": "world"}, "mm lies outside the scan, at voxel .* say that these are vo"),
        ({"points": [((3, 4), 1)]}, "three numbers"),
        ({"points": [((3, 4, float("nan")), 1)]}, "three numbers"),
        ({"points": [(3, 4, 5)]}, r"points\[0\] \(3, 4, 5\) must be \(\(x, y, z\), class\)"),
        ({"points": [((3, 4, 5), 1), ((3, 4, 5), "spleen")]}, r"points\[1\]: there is no class 'spleen'"),
        ({"points": [(5, 1)]}, r"points\[0\] \(5, 1\) must be \(\(x, y, z\), class\)"),
        ({"points": 5}, r"points 5 must be a list of \(\(x, y, z\), class\)"),
        ({"boxes": None}, r"boxes None must be a list of \(\(corner, opposite corner\), class\)"),
        ({"scribbles": [(5, 1)]}, r"scribbles\[0\] \(5, 1\) must be \(places, class\)"),
        ({"boxes": [([(1, 2, 3)], 1)]}, "two opposite corners"),
        ({"frame": "mm"}, "frame 'mm' must be"),
    ],
)
def test_what_does_not_fit_is_named(listener, prompts, message):
    with pytest.raises(ValueError, match=message):
        listener.words(**prompts)


def test_of_two_words_on_a_voxel_the_later_counts_and_it_is_said(listener):
    said = listener.words(
        points=[((1, 2, 3), 1), ((4, 5, 6), 1), ((1, 2, 3), 0)], scribbles=[([(4, 5, 6), (4, 5, 7)], 0)]
    )
    assert said.clicks == [Click(1, (4, 5, 6)), Click(0, (1, 2, 3))]
    assert said.scribbles == [Scribble(0, [(4, 5, 7)])]
    assert said.notes == [
        "voxel [4, 5, 6] was said to be class 0 and later class 1: the later word counts",
        "voxel [1, 2, 3] was said to be class 1 and later class 0: the later word counts",
    ]
    assert said.named() == {(4, 5, 7): 0, (4, 5, 6): 1, (1, 2, 3): 0}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"points": [((1, 1, 1), 1), ((900, 1, 1), 1)]}, r"points\[1\]: voxel \[900.0, 1.0, 1.0\] lies outside"),
        ({"boxes": [(((0, 0, 0), (1, -5, 1)), 1)]}, r"boxes\[0\]: voxel"),
        ({"scribbles": [([(1, 1, 1)], 1), ([], 1)]}, r"scribbles\[1\]: a scribble without a place"),
        ({"points": [((1, 1, 1), 9)]}, r"points\[0\]: there is no class 9"),
    ],
)
def test_what_is_wrong_is_said_with_its_entry(listener, said, message):
    with pytest.raises(ValueError, match=message):
        listener.words(**said)


def test_more_than_a_person_says_is_refused_with_the_number(listener):
    places = list(np.ndindex(SHAPE))
    with pytest.raises(ValueError, match=f"{MOST_MARKS + 1} clicks"):
        listener.words(points=[(place, 1) for place in places[:MOST_MARKS]], scribbles=[([places[-1]], 0)])
    with pytest.raises(ValueError, match=f"{MOST_DRAWN + 1} voxels"):
        listener.words(scribbles=[(places[:MOST_DRAWN], 1), ([places[-1]], 0)])
    assert len(listener.words(points=[(place, 1) for place in places[:MOST_MARKS]]).clicks) == MOST_MARKS
