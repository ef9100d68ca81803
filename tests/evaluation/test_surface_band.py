import itertools

import numpy as np

from aps_components.evaluation.surface_band import surface_band


def test_band_holds_what_is_near_a_surface_of_either_map():
    first, second = np.zeros((2, 9, 11, 13), dtype=np.uint8)
    first[2:5, 3:6, 4:8] = 1
    second[6:, 3, 4] = 2
    spacing, reach = (2.0, 1.0, 0.5), 2.1
    surface = []
    for label_map in (first, second):
        for place in np.ndindex(label_map.shape):
            for axis, step in itertools.product(range(3), (-1, 1)):
                other = np.array(place)
                other[axis] += step
                inside = 0 <= other[axis] < label_map.shape[axis]
                if inside and label_map[place] != label_map[tuple(other)]:
                    surface.append(place)
    places = np.array(list(np.ndindex(first.shape)))
    offsets = (places[:, None] - np.array(surface)[None]) * spacing
    expected = (np.sqrt((offsets**2).sum(axis=-1)).min(axis=1) <= reach).reshape(first.shape)
    found = surface_band(first, second, reach_mm=reach, spacing=spacing)
    np.testing.assert_array_equal(found, expected)
    assert 0 < found.sum() < found.size


def test_without_a_surface_there_is_no_band():
    assert not surface_band(np.ones((3, 4, 5), dtype=np.uint8), reach_mm=10, spacing=(1, 1, 1)).any()
