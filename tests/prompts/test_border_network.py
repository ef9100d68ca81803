"""After a click the border moves to where the image has an edge, near the click alone, whatever the classes are."""

import numpy as np
import pytest
import torch

from aps_components.prompts import (
    BorderNetwork,
    Click,
    border_network,
    deepest_error,
    learned_border,
    moved_border,
    with_moved_borders,
)
from aps_components.prompts.border_maps import MAPS, REACH, UNIT, border_maps
from aps_components.prompts.border_network import FARTHEST

SIZE = (17, 24, 40)


def ball(size, centre, radius, spacing=(1, 1, 1)):
    steps = [(np.arange(extent) - index) * step for extent, index, step in zip(size, centre, spacing, strict=True)]
    return steps[0][:, None, None] ** 2 + steps[1][None, :, None] ** 2 + steps[2][None, None, :] ** 2 <= radius**2


def scene(seed=0, size=(40, 44, 48), spacing=(1, 1, 1)):
    """A noisy image of a bright ball, its truth, and an answer that misses a third of the ball."""
    rng = np.random.default_rng(seed)
    centre = [extent // 2 for extent in size]
    truth = ball(size, centre, 11, spacing)
    image = (truth + 0.2 * rng.standard_normal(size)).astype(np.float32)[None]
    answer = truth.copy()
    answer[:, :, centre[2] + 5 :] = False
    return image, truth.astype(np.int64), answer.astype(np.int64)


def as_probabilities(answer, classes=2, certain=0.9):
    found = np.full((classes, *answer.shape), (1 - certain) / (classes - 1), dtype=np.float32)
    np.put_along_axis(found, answer[None], certain, axis=0)
    return found


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def applied(border, answer, label):
    mask = answer == label
    mask[border.box] |= border.inside
    return mask


def learned(image, answer, click, *, network=None, said=(), spacing=(1, 1, 1), classes=2):
    return learned_border(
        image,
        as_probabilities(answer, classes),
        answer,
        click,
        said=said,
        spacing=spacing,
        network=network or border_network(),
    )


@pytest.mark.parametrize("voxel", [(8, 12, 20), (0, 0, 0), (16, 23, 39)])
def test_maps_show_the_surroundings_of_the_click_and_fill_what_lies_beyond(voxel):
    rng = np.random.default_rng(0)
    image, answer = rng.standard_normal((2, *SIZE)).astype(np.float32), ball(SIZE, (8, 12, 20), 6).astype(np.int64)
    seen = border_maps(image, as_probabilities(answer), answer, Click(1, voxel))
    length = 2 * int(REACH) + 1
    assert seen.maps.shape == (2, MAPS, length, length, length)
    middle = (int(REACH),) * 3
    assert seen.away[middle] == 0
    assert seen.away[0, 0, 0] == pytest.approx(REACH * np.sqrt(3))
    there = seen.maps[(0, 0, *seen.shown)]
    part = image[(0, *seen.inside)]
    np.testing.assert_allclose(there, (part - part.mean()) / (part.std() + 1e-3), atol=1e-5)
    beyond = np.ones(seen.away.shape, dtype=bool)
    beyond[seen.shown] = False
    assert not seen.maps[0, 0][beyond].any()
    assert not seen.maps[0, 4][beyond].any()


def test_distances_count_in_the_finest_voxels_whatever_the_slices_are():
    answer = np.zeros((9, 40, 40), dtype=np.int64)
    answer[:, :, :20] = 1
    image = np.zeros((1, *answer.shape), dtype=np.float32)
    seen = border_maps(image, as_probabilities(answer), answer, Click(1, (4, 20, 22)), spacing=(6, 1, 1))
    assert seen.maps.shape[2:] == (5, 25, 25)
    assert seen.away[0, 12, 12] == 12
    np.testing.assert_allclose(seen.maps[0, 3, 2, 12, :], np.clip(np.r_[-10:0, 1:16] - 0.0, -6, 6) / UNIT)
    assert seen.maps[0, 8, 0, 0, 0] == pytest.approx(3 / UNIT)


def test_earlier_clicks_are_shown_by_what_they_said():
    answer = np.zeros(SIZE, dtype=np.int64)
    said = [Click(1, (8, 12, 23)), Click(0, (8, 9, 20)), Click(1, (8, 12, 39))]
    image = np.zeros((1, *SIZE), dtype=np.float32)
    maps = border_maps(image, as_probabilities(answer), answer, Click(1, (8, 12, 20)), said=said).maps[0]
    assert np.unravel_index(maps[6].argmax(), maps[6].shape) == (12, 12, 15)
    assert np.unravel_index(maps[7].argmax(), maps[7].shape) == (12, 9, 12)
    assert maps[6, 12, 12, 15] == maps[7, 12, 9, 12] == 1


def test_before_any_training_it_says_what_geometry_says():
    image, truth, answer = scene()
    click = deepest_error(answer, truth)
    geometry = applied(moved_border(answer, click), answer, 1)
    np.testing.assert_array_equal(applied(learned(image, answer, click, network=BorderNetwork()), answer, 1), geometry)


def test_the_trained_one_corrects_an_organ_that_it_never_saw():
    """Two voxels of a ball are missing on one side."""
    for seed in range(3):
        image, truth, _ = scene(seed)
        answer = truth * np.roll(truth, -2, axis=2)
        click = deepest_error(answer, truth)
        by_image, by_geometry = learned(image, answer, click), moved_border(answer, click)
        before, after, of_geometry = (
            dice(mask, truth == 1) for mask in (answer == 1, *(applied(b, answer, 1) for b in (by_image, by_geometry)))
        )
        assert after > before
        assert after > of_geometry - 0.001


def test_to_load_it_draws_no_random_numbers():
    """A training that was killed loads it again, and an uninterrupted one does not."""
    border_network.cache_clear()
    before = torch.get_rng_state()
    network = border_network()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.device.type == "cpu" for parameter in network.parameters())


def test_only_the_clicked_class_gains_and_only_near_the_click():
    image, truth, answer = scene()
    click = deepest_error(answer, truth)
    after = applied(learned(image, answer, click), answer, 1)
    assert after[click.voxel]
    assert after[answer == 1].all()
    away = np.sqrt(((np.indices(answer.shape) - np.array(click.voxel)[:, None, None, None]) ** 2).sum(axis=0))
    np.testing.assert_array_equal(after[away > FARTHEST], (answer == 1)[away > FARTHEST])


def test_names_of_classes_do_not_matter():
    image, truth, answer = scene()
    click = deepest_error(answer, truth)
    other = np.where(answer == 1, 3, 2)
    as_first = learned(image, answer, click)
    as_third = learned_border(
        image, as_probabilities(answer)[[0, 0, 0, 1]], other, click._replace(label=3), network=border_network()
    )
    # Class 2 has the background's probability there.
    np.testing.assert_array_equal(as_first.inside, as_third.inside)


def test_the_same_image_twice_is_no_second_opinion():
    image, truth, answer = scene()
    click = deepest_error(answer, truth)
    once, twice = (learned(np.repeat(image, count, axis=0), answer, click) for count in (1, 2))
    np.testing.assert_array_equal(once.inside, twice.inside)


def test_an_answer_keeps_its_probabilities_where_nothing_moves():
    image, truth, answer = scene()
    probabilities = torch.from_numpy(as_probabilities(answer))
    click = deepest_error(answer, truth)
    after = with_moved_borders(probabilities, [click], image=torch.from_numpy(image))
    changed = (after != probabilities).any(dim=0).numpy()
    np.testing.assert_array_equal(changed, applied(learned(image, answer, click), answer, 1) & (answer != 1))
    torch.testing.assert_close(after.sum(dim=0), torch.ones(answer.shape))


def test_the_part_around_a_click_is_all_that_counts():
    """Several clicks in a large volume, one in its corner, are as in the whole."""
    image, truth, answer = scene(size=(60, 64, 90))
    probabilities = torch.from_numpy(as_probabilities(answer))
    clicks = [deepest_error(answer, truth), Click(1, (0, 0, 0)), Click(0, (30, 32, 41))]
    after = with_moved_borders(probabilities, clicks, image=torch.from_numpy(image))
    expected, said, current = answer.copy(), [], probabilities
    for click in clicks:
        border = learned_border(
            image, current.numpy(), expected, click, said=said, spacing=(1, 1, 1), network=border_network()
        )
        expected[border.box][border.inside] = click.label
        current = with_moved_borders(current, [click], image=torch.from_numpy(image), said=said)
        said.append(click)
    np.testing.assert_array_equal(after.argmax(dim=0).numpy(), expected)
    torch.testing.assert_close(after, current)
