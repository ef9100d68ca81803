"""Strides and kernels from voxel and patch sizes."""

import pytest

from aps_components.networks.voxel_shape import (
    by_axis,
    checked_kernels,
    checked_strides,
    network_shape,
    roi_faults,
    total_stride,
)


def test_cubes_are_halved_and_looked_at_along_every_axis():
    shape = network_shape([1.0, 1.0, 1.0], [96, 96, 96])
    assert shape == (((2, 2, 2),) * 4, ((3, 3, 3),) * 5)
    assert total_stride(shape.strides) == (16, 16, 16)


def test_thick_slices_are_halved_once_and_last():
    """1.5 mm in the plane and 10 mm between the slices: the plane has caught up after two halvings (6 mm), and at the
    last level, of ten slices or eight, they are halved and looked along."""
    shape = network_shape([1.5, 1.5, 10.0], [144, 144, 8])
    assert shape.strides == ((2, 2, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2))
    assert shape.kernel_sizes == (*[(3, 3, 1)] * 4, (3, 3, 3))
    assert total_stride(shape.strides[:3]) == (8, 8, 1)


def test_slices_somewhat_thicker_than_wide_are_looked_along_once_they_are_halved():
    shape = network_shape([0.8, 0.8, 3.0], [96, 96, 32])
    assert shape.strides == ((2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert shape.kernel_sizes == ((3, 3, 1), (3, 3, 1), *[(3, 3, 3)] * 3)


@pytest.mark.parametrize(
    ("slices", "halvings"), [(3, 0), (4, 0), (5, 0), (7, 0), (8, 1), (9, 0), (10, 1), (16, 2), (18, 1), (40, 2)]
)
def test_a_coarse_axis_is_halved_while_four_cells_are_left_and_it_divides(slices, halvings):
    """Voxels of 6.7 times the plane's allow two halvings in all: at the third level the plane is as coarse."""
    strides = network_shape([10.0, 1.5, 1.5], [slices, 144, 128]).strides
    assert [stride[0] for stride in strides] == [1] * (4 - halvings) + [2] * halvings
    assert all(stride[1:] == (2, 2) for stride in strides)


def test_slices_thicker_than_everything_below_are_looked_along_at_the_bottom_alone():
    shape = network_shape([0.5, 0.5, 50.0], [64, 64, 32])
    assert [kernel[2] for kernel in shape.kernel_sizes] == [1, 1, 1, 1, 3]
    assert total_stride(shape.strides) == (16, 16, 1)


@pytest.mark.parametrize("strides", [[[2, 2, 2]] * 3, [[2, 2]] * 4, [[2, 2, 0]] * 4, [[2, 2, True]] * 4, [2, 2, 2, 2]])
def test_strides_that_are_not_four_triples_are_refused(strides):
    with pytest.raises(ValueError, match="must be 4 triples"):
        checked_strides(strides)


@pytest.mark.parametrize("kernels", [[[3, 3, 3]] * 4, [[3, 3, 2]] * 5, [[3, 3]] * 5])
def test_kernels_that_are_not_a_triple_of_odd_numbers_for_each_level_are_refused(kernels):
    with pytest.raises(ValueError, match="must be 5 triples of odd numbers"):
        checked_kernels(kernels)


def test_a_patch_is_divided_along_each_axis_by_its_own_stride():
    strides = [(2, 2, 1)] * 3 + [(2, 3, 1)]
    assert roi_faults([32, 48, 5], strides) == []
    assert "divisible by 16 x 24 x 1: try [32, 48, 5]" in roi_faults([32, 40, 5], strides)[0]
    assert "leaves one voxel at the bottom" in roi_faults([16, 24, 1], strides)[0]
    assert by_axis((16, 16, 16)) == "16"
