import math

import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_max_pool3d

from aps_components.networks.sam3d import Prompts, box_maps, point_maps
from aps_components.networks.sam3d.prompt_maps import highest, reach

SIZE, CLASSES = (17, 24, 40), 3


def balls_by_distance(coords, labels, weights, *, radius):
    """Of one volume, voxel by voxel, as the highest of all the balls of a class; [C, D, H, W]."""
    grid = np.stack(np.meshgrid(*(np.arange(extent) for extent in SIZE), indexing="ij"), axis=-1)
    maps = np.zeros((CLASSES, *SIZE))
    for place, label, weight in zip(coords, labels, weights, strict=True):
        if label >= 0:
            distance = np.sqrt((((grid - np.array(place)) / np.array(radius)) ** 2).sum(axis=-1))
            maps[label] = np.maximum(maps[label], weight * np.clip(1 - distance, 0, None))
    return torch.from_numpy(maps).float()


@pytest.mark.parametrize("radius", [(4.0, 4.0, 4.0), (4.0, 2.5, 1.0), (0.5, 4.0, 4.0), (3.0, 3.0, 0.5)])
def test_heights_fall_with_the_distance(radius):
    """Among the points: two that overlap, one in a corner, two on the rim, a pad."""
    coords = torch.tensor([[8, 12, 20], [9, 13, 22], [0, 0, 0], [16, 23, 39], [16, 0, 20], [5, 5, 5], [8, 12, 21]])
    labels = torch.tensor([1, 1, 0, 2, 1, -1, 2])
    weights = torch.tensor([0.7, 1.0, 1.0, 0.3, 1.0, 1.0, 0.9])
    maps = point_maps(coords[None].float(), labels[None], weights[None], num_classes=CLASSES, size=SIZE, radius=radius)
    assert maps.shape == (1, CLASSES, *SIZE)
    assert maps.dtype == torch.float32
    expected = balls_by_distance(coords.tolist(), labels.tolist(), weights.tolist(), radius=radius)
    torch.testing.assert_close(maps[0], expected)


def test_values_of_one_ball():
    maps = point_maps(
        torch.tensor([[[8.0, 12.0, 20.0]]]), torch.tensor([[1]]), num_classes=2, size=SIZE, radius=(4, 4, 0.5)
    )
    assert maps[0, 1, 8, 12, 20] == 1
    assert maps[0, 1, 8, 14, 20] == 0.5
    assert maps[0, 1, 10, 10, 20] == pytest.approx(1 - math.sqrt(8) / 4)
    assert maps[0, 1, 8, 16, 20] == 0  # at the rim
    assert not maps[0, 1, ..., [19, 21]].any()  # a thick slice has no part in its neighbour's
    assert not maps[0, 0].any()


def test_where_balls_overlap_the_higher_counts():
    near = torch.tensor([[[8.0, 12, 20], [8, 12, 22]]])
    one, other = (
        point_maps(near[:, [index]], torch.tensor([[1]]), num_classes=2, size=SIZE, radius=(4, 4, 4))
        for index in (0, 1)
    )
    both = point_maps(near, torch.tensor([[1, 1]]), num_classes=2, size=SIZE, radius=(4, 4, 4))
    assert torch.equal(both, torch.maximum(one, other))
    assert both.max() == 1


def test_volumes_of_a_batch_are_their_own():
    coords = torch.stack([torch.randint(0, extent, (2, 5)) for extent in SIZE], dim=-1).float()
    labels = torch.tensor([[0, 1, 2, -1, 1], [2, -1, -1, -1, -1]])
    maps = point_maps(coords, labels, num_classes=CLASSES, size=SIZE, radius=(4, 4, 4))
    for row in range(2):
        alone = balls_by_distance(coords[row].tolist(), labels[row].tolist(), [1.0] * 5, radius=(4, 4, 4))
        torch.testing.assert_close(maps[row], alone)


@pytest.mark.parametrize("labels", [torch.full((2, 3), -1), torch.zeros(2, 0, dtype=torch.long)])
def test_pads_and_nothing_make_nothing(labels):
    coords = torch.full((*labels.shape, 3), 5.0)
    maps = point_maps(coords, labels, num_classes=CLASSES, size=SIZE, radius=(4, 4, 4))
    assert maps.shape == (2, CLASSES, *SIZE)
    assert not maps.any()


def test_points_outside_reach_in_as_far_as_their_ball():
    outside = torch.tensor([[[-2.0, 12, 20]]])
    maps = point_maps(outside, torch.tensor([[0]]), num_classes=1, size=SIZE, radius=(4, 4, 4))[0, 0]
    assert maps[:2, 12, 20].tolist() == [0.5, 0.25]
    assert not maps[2:].any()


def test_boxes_are_one_inside_corners_included():
    boxes = torch.tensor(
        [[[2, 3, 5], [11, 13, 7]], [[10, 10, 6], [16, 23, 39]], [[4, 4, 4], [4, 4, 4]], [[0] * 3, [9] * 3]]
    )
    labels = torch.tensor([1, 1, 2, -1])
    expected = np.zeros((CLASSES, *SIZE))
    expected[1, 2:12, 3:14, 5:8] = expected[1, 10:17, 10:24, 6:40] = expected[2, 4, 4, 4] = 1
    maps = box_maps(boxes[None].float(), labels[None], num_classes=CLASSES, size=SIZE)
    assert torch.equal(maps[0], torch.from_numpy(expected).float())


def test_no_boxes_make_empty_maps():
    maps = box_maps(torch.zeros(2, 0, 2, 3), torch.zeros(2, 0, dtype=torch.long), num_classes=CLASSES, size=SIZE)
    assert maps.shape == (2, CLASSES, *SIZE)
    assert not maps.any()


def test_no_prompts_are_empty():
    none = Prompts.none(5)
    assert none.point_coords.shape == none.own_coords.shape == (5, 0, 3)
    assert none.point_labels.shape == none.own_labels.shape == none.own_weights.shape == (5, 0)
    assert none[5:] == (None,) * 4


def test_a_persons_points_come_before_the_models_own(prompts):
    coords, labels = prompts.tokens
    assert coords.shape == (2, 7 + 5, 3)
    assert torch.equal(coords[:, :7], prompts.point_coords)
    assert torch.equal(coords[:, 7:], prompts.own_coords)
    assert torch.equal(labels, torch.cat([prompts.point_labels, prompts.own_labels], dim=1))


def test_what_a_person_named_are_points_and_scribbles(prompts):
    coords, labels = prompts.marks
    assert torch.equal(coords, torch.cat([prompts.point_coords, prompts.stroke_coords], dim=1))
    assert torch.equal(labels, torch.cat([prompts.point_labels, prompts.stroke_labels], dim=1))
    coords, labels = prompts._replace(stroke_coords=None, stroke_labels=None).marks
    assert torch.equal(coords, prompts.point_coords)
    assert torch.equal(labels, prompts.point_labels)


def test_a_correction_reaches_as_far_as_points_and_boxes_do():
    half, size, classes = (12, 20, 8), (24, 40, 16), 3
    far, boxes = torch.zeros(1, classes, *half), torch.zeros(1, classes, *size)
    far[0, 1, 3, 4, 5], far[0, 2, 3, 4, 5], far[0, 0, 3, 4, 6], far[0, 0, 3, 4, 7] = 0.1, 0.3, 0.5, 0.9
    boxes[0, 2, 8:11, 20, 14] = 1  # the last cell has one voxel of it
    expected = torch.zeros(1, 1, *half)
    expected[0, 0, 3, 4, 5:8] = torch.tensor([0.6, 1, 1])
    expected[0, 0, 4:6, 10, 7] = 1
    torch.testing.assert_close(reach(far, boxes), expected)


@pytest.mark.parametrize("cell", [(1, 1, 1), (2, 2, 2), (2, 2, 1), (3, 1, 4)])
def test_the_highest_of_each_cell(cell):
    maps = torch.randn(2, 3, 12, 6, 8)
    size = [extent // side for extent, side in zip(maps.shape[2:], cell, strict=True)]
    assert torch.equal(highest(maps, size), adaptive_max_pool3d(maps, size))
