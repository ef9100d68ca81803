import numpy as np
import pytest

from aps_components.prompts import AlteredTargets, Box, Click, Scribble, SimulatedUser, UserPrompts, deepest_error

SIZE = (17, 24, 40)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def anatomy():
    target = np.zeros(SIZE, dtype=np.int64)
    target[3:14, 4:20, 4:20], target[5:9, 6:12, 25:36] = 1, 2
    return target


def test_a_patch_begins_as_often_as_weights_say(rng):
    user = SimulatedUser(own=1.0, simulated=2.0, none=5.0)
    drawn = [user.source(rng) for _ in range(800)]
    for name, count in (("own", 100), ("simulated", 200), ("none", 500)):
        assert drawn.count(name) == pytest.approx(count, abs=60)
    assert {SimulatedUser(own=0, simulated=3.0, none=0).source(rng) for _ in range(20)} == {"simulated"}


def test_first_prompts_are_true_and_of_all_kinds(rng):
    target, counts = anatomy(), {"clicks": 0, "boxes": 0, "scribbles": 0, "left out": 0}
    for _ in range(100):
        given = SimulatedUser().first_prompts(target, rng)
        for click in given.clicks:
            assert target[click.voxel] == click.label
        for line in given.scribbles:
            assert all(target[voxel] == line.label for voxel in line.voxels)
        for box in given.boxes:
            inside = target[tuple(slice(low, high + 1) for low, high in zip(box.least, box.greatest, strict=True))]
            assert (inside == box.label).mean() > 0.4
            assert (inside == box.label).sum() > 0.25 * (target == box.label).sum()
        told = {each.label for kind in given for each in kind}
        assert told <= {0, 1, 2}
        for name in given._fields:
            counts[name] += len(getattr(given, name))
        counts["left out"] += len(told) < 3
    assert min(counts.values()) > 15
    assert all(box.label for box in given.boxes)  # nobody draws a box around the background


def test_first_prompts_of_an_empty_volume(rng):
    for _ in range(20):
        given = SimulatedUser().first_prompts(np.zeros(SIZE, dtype=np.int64), rng)
        assert {each.label for kind in given for each in kind} <= {0}


@pytest.mark.parametrize("deepest", [0.0, 0.5, 1.0])
def test_corrections_lie_in_errors_and_say_their_class(rng, deepest):
    target = anatomy()
    prediction = np.roll(target, (1, 2, 3), axis=(0, 1, 2))
    user = SimulatedUser(clicks=4, deepest=deepest)
    firsts, counts, lines = [], [], 0
    for _ in range(80):
        given = user.corrections(prediction, target, rng)
        assert not given.boxes
        marked = [*given.clicks, *(Click(line.label, voxel) for line in given.scribbles for voxel in line.voxels)]
        for label, voxel in marked:
            assert prediction[voxel] != target[voxel] == label
        firsts.append(given.clicks[0])
        counts.append(len(given.clicks))
        lines += len(given.scribbles)
    assert set(counts) == {1, 2, 3, 4}
    share = firsts.count(deepest_error(prediction, target)) / len(firsts)
    assert share == pytest.approx(deepest, abs=0.2)
    assert 0 < lines < 40


def test_nothing_is_said_where_nothing_is_wrong(rng):
    assert not any(any(SimulatedUser().corrections(anatomy(), anatomy(), rng)) for _ in range(20))


def test_the_same_seed_says_the_same():
    def said(seed):
        rng, target = np.random.default_rng(seed), anatomy()
        user = SimulatedUser()
        return user.first_prompts(target, rng), user.corrections(np.zeros_like(target), target, rng)

    assert said(2) == said(2)
    assert said(2) != said(3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "rounds 0"),
        ({"clicks": 0}, "clicks 0"),
        ({"flipped": 1.5}, r"flipped 1\.5 must be a share"),
        ({"altered": -0.1}, r"altered -0\.1 must be a share"),
        ({"corrected": 2}, "corrected 2 must be a share"),
        ({"deepest": -1}, "deepest -1"),
        ({"weaker": 3}, "weaker 3"),
        ({"own": -1}, "own -1"),
        ({"own": 0, "simulated": 0, "none": 0}, "own 0, simulated 0 and none 0"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        SimulatedUser(**changes)


def test_altering_nothing_is_said(rng):
    nothing = AlteredTargets(other_answer=0, shifted_border=0, ellipsoid=0, cut=0)
    altered, done = nothing.draw(anatomy(), rng, num_classes=3, other=np.zeros(SIZE, dtype=np.int64))
    assert done == "nothing"
    assert np.array_equal(altered, anatomy())


def test_what_was_said_within_a_part_is_in_its_voxels():
    said = UserPrompts(
        [Click(1, (4, 5, 6)), Click(2, (0, 5, 6))],
        [Box(1, (0, 0, 0), (5, 9, 9)), Box(2, (0, 0, 0), (2, 9, 9))],
        [Scribble(1, [(4, 5, 6), (9, 5, 6)]), Scribble(2, [(9, 9, 9)])],
    )
    part = (slice(3, 8), slice(2, 9), slice(2, 9))
    assert said.within(part) == UserPrompts(
        [Click(1, (1, 3, 4))], [Box(1, (0, 0, 0), (2, 6, 6))], [Scribble(1, [(1, 3, 4)])]
    )
