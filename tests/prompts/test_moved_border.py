"""A click moves the border of its class past it, most at the click, and no further than it reaches."""

import numpy as np
import pytest
import torch

from aps_components.prompts import Click, moved_border, with_moved_borders
from aps_components.prompts.corrected import LIKELY
from aps_components.prompts.moved_border import BREADTHS, BROADENED, DEEPEST, NARROWEST, PASSED

SIZE = (40, 24, 17)


def half_space(size=SIZE, border=16):
    """Class 1 below ``border`` along the first axis: its last voxels lie at ``border - 1``."""
    answer = np.zeros(size, dtype=np.int64)
    answer[:border] = 1
    return answer


def moved(answer, click, **kwargs):
    box, inside = moved_border(answer, click, **kwargs)
    mask = answer == click.label
    mask[box] |= inside
    return mask


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_flat_border_moves_past_the_click_and_comes_back_beside_it(depth):
    click = Click(1, (15 + depth, 12, 8))
    mask = moved(half_space(), click)
    reach = mask.sum(axis=0) - 16  # how far each line's border moved
    assert reach[12, 8] == max(int(PASSED * depth), depth + int(depth - 0.5))  # the bump, or the ball
    beside = int(PASSED * depth * np.exp(-0.5 * (4 / (NARROWEST + BROADENED * depth)) ** 2 - 1e-9))
    assert beside <= reach[16, 8] <= reach[12, 8]
    assert reach[12, 8] >= reach[14, 8] >= reach[18, 8] >= reach[23, 8]
    assert mask[half_space() == 1].all()


def test_the_other_class_comes_back_in_the_same_way():
    """A click of background in the foreground is the mirror image."""
    forth = moved(half_space(border=20), Click(1, (22, 12, 8)))
    back = moved(1 - half_space(border=20)[::-1], Click(0, (17, 12, 8)))
    np.testing.assert_array_equal(forth, ~(1 - back).astype(bool)[::-1])


def test_a_click_in_its_own_class_changes_nothing():
    answer = half_space()
    np.testing.assert_array_equal(moved(answer, Click(1, (7, 12, 8))), answer == 1)


def test_a_class_that_is_not_there_begins_as_a_ball():
    mask = moved(half_space(), Click(2, (30, 12, 8)))
    away = np.sqrt(((np.indices(SIZE) - np.array([30, 12, 8])[:, None, None, None]) ** 2).sum(axis=0))
    np.testing.assert_array_equal(mask, away <= DEEPEST - 0.5)


def test_nothing_moves_beyond_its_reach():
    rng = np.random.default_rng(0)
    answer = rng.integers(3, size=SIZE)
    answer[30:37, :7, 6:13] = 0
    click = Click(2, (33, 3, 9))
    changed = moved(answer, click) & (answer != 2)
    away = np.abs(np.argwhere(changed) - click.voxel).max()
    assert away <= BREADTHS * (NARROWEST + BROADENED * DEEPEST)


def test_thick_slices_are_measured_by_their_thickness():
    """A border two voxels off across slices four times as thick is further than any that a click moves far."""
    thin = moved(half_space().transpose(2, 1, 0)[:, :, :40], Click(1, (8, 12, 18)))
    thick = moved(half_space().transpose(2, 1, 0)[:, :, :40], Click(1, (8, 12, 18)), spacing=(1, 1, 4))
    assert thick.sum() < thin.sum()
    assert thick[8, 12, 18]


def test_probabilities_follow_and_stay_probabilities():
    answer = torch.from_numpy(half_space())
    probabilities = torch.nn.functional.one_hot(answer, 3).movedim(-1, 0).float() * 0.9 + 0.1 / 3
    clicks = [Click(1, (18, 12, 8)), Click(2, (30, 4, 4))]
    after = with_moved_borders(probabilities, clicks)
    torch.testing.assert_close(after.sum(dim=0), torch.ones(SIZE))
    for click in clicks:
        assert after[(click.label, *click.voxel)] == pytest.approx(LIKELY)
    expected = moved(answer.numpy(), clicks[0])
    np.testing.assert_array_equal((after.argmax(dim=0) == 1).numpy(), expected)
    unmoved = after.argmax(dim=0) == answer
    torch.testing.assert_close(after[:, unmoved], probabilities[:, unmoved])
