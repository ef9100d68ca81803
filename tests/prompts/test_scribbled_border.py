"""An answer after a scribble: the border moves past it, and not far beside it."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from aps_components.prompts import Click, Scribble, corrected, moved_border, with_moved_borders
from aps_components.prompts.scribbled import BESIDE, LEAST_BESIDE, MOVES_IN_ALL, strokes_of

SIZE = (20, 28, 60)


def probabilities_of(answer: np.ndarray, classes: int = 2) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.from_numpy(answer), classes).movedim(-1, 0).float() * 0.8 + 0.2 / classes


def scene(depth: int = 6) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """A bright slab; of its upper part, ``depth`` voxels thick, a long piece is missing in the answer."""
    truth = np.zeros(SIZE, dtype=np.int64)
    truth[4:16] = 1
    answer = truth.copy()
    answer[16 - depth : 16, 8:20, 10:50] = 0
    noise = np.random.default_rng(0).normal(0, 0.1, size=SIZE)
    return torch.from_numpy(truth + noise).float()[None], truth, answer


def line(depth: int = 6) -> Scribble:
    """Along the middle of what is missing."""
    return Scribble(1, [(15 - depth // 2, 14, w) for w in range(12, 48)])


def after(answer: np.ndarray, scribbles: list[Scribble], image: torch.Tensor | None = None, **more) -> np.ndarray:
    moved = with_moved_borders(probabilities_of(answer), [], scribbles=scribbles, image=image, **more)
    torch.testing.assert_close(moved.sum(dim=0), torch.ones(SIZE))
    return moved.argmax(dim=0).numpy()


@pytest.mark.parametrize("looks", [False, True])
def test_one_scribble_fills_a_long_error_along_its_line(looks):
    """A third of it is a row of balls; what lies at its sides, further than the error is deep, is left."""
    image, truth, answer = scene()
    found = after(answer, [line()], image if looks else None)
    missing = (truth == 1) & (answer == 0)
    assert (found[missing] == 1).mean() > 1 / 3
    assert (found[truth == 0] == 1).mean() < 0.03
    assert np.mean([found[voxel] for voxel in line().voxels]) > 0.5


def test_it_brings_more_than_a_click_in_its_middle():
    image, truth, answer = scene()
    middle = line().voxels[len(line().voxels) // 2]
    clicked = with_moved_borders(probabilities_of(answer), [Click(1, middle)], image=image).argmax(dim=0).numpy()
    assert (after(answer, [line()], image) != truth).sum() < 0.8 * (clicked != truth).sum()


def test_nothing_changes_far_beside_it():
    """Nothing at all of the answer tells where the class ends."""
    answer = np.zeros(SIZE, dtype=np.int64)
    answer[:, :, :20] = 1
    drawn = [(10, 14, w) for w in range(15, 24)]
    changed = after(answer, [Scribble(1, drawn)]) != answer
    away = np.ones(SIZE, dtype=bool)
    away[tuple(np.array(drawn).T)] = False
    deepest = 4  # voxel 23, and 19 is the last one of the class
    limit = max(LEAST_BESIDE, BESIDE * deepest)
    assert changed.any()
    assert not changed[ndimage.distance_transform_edt(away) > limit].any()


@pytest.mark.parametrize("scribbles", [[], [Scribble(1, [])], [Scribble(1, [(8, 10, w) for w in range(55)])]])
def test_a_scribble_within_its_class_changes_nothing(scribbles):
    answer = np.zeros(SIZE, dtype=np.int64)
    answer[4:16] = 1
    np.testing.assert_array_equal(after(answer, scribbles), answer)


@pytest.mark.parametrize("label", [0, 1])
def test_of_a_class_that_is_not_there_and_of_one_that_is_all_there_is(label):
    answer = np.full(SIZE, 1 - label, dtype=np.int64)
    found = after(answer, [Scribble(label, [(0, 0, w) for w in range(6)])])
    assert (found[0, 0, :6] == label).all()
    assert (found == label).mean() < 0.5


def counted_moves(monkeypatch, scribbles: list[Scribble]) -> list[Click]:
    """Of geometry alone, on an answer that has none of the class."""
    seen = []

    def counted(answer, click, **_):
        seen.append(click)
        return moved_border(answer, click)

    monkeypatch.setattr(corrected, "moved_border", counted)
    after(np.zeros(SIZE, dtype=np.int64), scribbles)
    return seen


def test_many_strokes_take_no_longer_than_some(monkeypatch):
    places = [(d, h, w) for d in range(0, 20, 8) for h in range(0, 28, 8) for w in range(0, 60, 8)]
    voxels = [(d + i, h, w) for d, h, w in places for i in range(2)]
    many = [Scribble(1, voxels), *(Scribble(1, [(19, 27, w)]) for w in range(60) for _ in range(5))]
    assert len(strokes_of(many[0])) == len(places) == 96
    assert 0 < len(counted_moves(monkeypatch, many)) <= MOVES_IN_ALL


def test_a_blob_is_shown_by_few_clicks_and_strokes_far_apart_are_two(monkeypatch):
    """As a viewer sends them: every voxel under a brush, all strokes as one."""
    blob = [(d, h, w) for d in range(4, 12) for h in range(4, 12) for w in range(4, 12)]
    line = [(15, 20, w) for w in range(40, 56)]
    one, other = strokes_of(Scribble(1, [*blob, *line]))
    assert sorted(map(tuple, one.voxels.tolist())) == sorted(blob)
    assert sorted(map(tuple, other.voxels.tolist())) == sorted(line)
    assert (len(one.shown), len(other.shown)) == (8, 4)
    assert {click.voxel for click in other.shown} <= set(line)
    seen = counted_moves(monkeypatch, [Scribble(1, [*blob, *line])])
    assert {click.voxel in blob for click in seen} == {True, False}


@pytest.mark.parametrize("gap", [1, 3])
def test_a_line_with_gaps_is_one_stroke(gap):
    """As a coarse scan's voxels are on a finer grid."""
    (stroke,) = strokes_of(Scribble(2, [(9, 9, w) for w in range(0, 60, gap)]))
    assert stroke.label == 2
    assert len(stroke.voxels) == len(range(0, 60, gap))


def test_thick_slices_are_measured_by_their_thickness():
    answer = np.zeros(SIZE, dtype=np.int64)
    answer[:, :10] = 1
    drawn = [Scribble(1, [(10, 12, w) for w in range(20, 30)])]
    thin, thick = (
        (after(answer, drawn, spacing=spacing) != answer).any(axis=(1, 2)) for spacing in ((1,) * 3, (5, 1, 1))
    )
    assert thick.sum() < thin.sum()
    assert thick[10]
