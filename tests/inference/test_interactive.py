from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch

from aps_components.inference import PromptedSlidingWindowInferer, interactive
from aps_components.inference.interactive import InteractiveVolume
from aps_components.models import build_auto_prompt_seg
from aps_components.prompts import Box, Click, Scribble, with_moved_borders

ROI = (32, 32, 32)
SIZE = (40, 33, 61)  # windows start at 0 and 8, 0 and 1, and 0, 16 and 29


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_auto_prompt_seg(num_classes=3, roi_size=ROI, filters=4, sam_variant="tiny").eval()


@pytest.fixture(scope="module")
def volumes(model):
    """One that asks a window, one that asks all that hold a prompt and their mirror images."""
    image = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    inferer = PromptedSlidingWindowInferer(ROI, precision="fp32", mirror_axes=[[0, 1]])
    return {thorough: InteractiveVolume(image, model, inferer, thorough=thorough) for thorough in (False, True)}


@pytest.fixture(params=[False, True], ids=["quick", "thorough"])
def volume(volumes, request):
    volumes[request.param].reset()
    return volumes[request.param]


def answer(volume):
    return volume.label_map[0, 0].numpy().copy()


def wrong(volume, voxel):
    """A class that the answer does not have at a voxel."""
    return (int(answer(volume)[voxel]) + 1) % 3


def test_a_clicked_voxel_has_its_class_and_probabilities_sum_to_one(volume):
    voxel = (20, 11, 30)
    click = Click(wrong(volume, voxel), voxel)
    probabilities = volume.prompt([click])
    assert answer(volume)[voxel] == click.label
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(1, *SIZE))


def test_nothing_changes_but_towards_the_class_that_was_said_and_around_it(volume):
    before, former = answer(volume), volume.probabilities.clone()
    click = Click(wrong(volume, (4, 5, 6)), (4, 5, 6))
    volume.prompt([click])
    changed = answer(volume) != before
    assert (answer(volume)[changed] == click.label).all()
    far = torch.zeros(SIZE, dtype=torch.bool)
    far[:, :, 32:] = True  # beyond every window that holds the click
    assert torch.equal(volume.probabilities[0][:, far], former[0][:, far])


def test_what_was_said_stays_whatever_is_said_later(volume):
    rng = np.random.default_rng(0)
    said = {}
    for _ in range(6):
        voxel = tuple(int(rng.integers(size)) for size in SIZE)
        said[voxel] = wrong(volume, voxel)
        volume.prompt([Click(said[voxel], voxel)])
        assert {place: int(answer(volume)[place]) for place in said} == said


def test_the_later_word_on_a_voxel_counts(volume):
    volume.prompt([Click(1, (5, 6, 7))])
    volume.prompt([Click(2, (5, 6, 7))])
    assert answer(volume)[5, 6, 7] == 2
    assert volume.said.clicks == [Click(2, (5, 6, 7))]


def test_scribbles_and_boxes(volume):
    line = Scribble(2, [(9, y, 40) for y in range(5, 15)])
    box = Box(1, (20, 4, 10), (29, 20, 25))
    before = answer(volume)
    volume.prompt(boxes=[box], scribbles=[line])
    assert all(answer(volume)[voxel] == 2 for voxel in line.voxels)
    turned = (answer(volume) != before) & (answer(volume) != 2)
    inside = np.zeros(SIZE, dtype=bool)
    inside[20:30, 4:21, 10:26] = True
    assert not (turned & ~inside).any()


@pytest.fixture
def of_boxes(volume):
    """A volume without any class but the background, of which Model B finds classes by chance."""
    volume.reset(np.zeros(SIZE, dtype=np.int64))
    return volume


def inside_of(box):
    inside = np.zeros(SIZE, dtype=bool)
    inside[tuple(slice(a, b + 1) for a, b in zip(box.least, box.greatest, strict=True))] = True
    return inside


def proposing(volume, label_map, monkeypatch):
    """Whatever Model B is asked, it answers so."""
    maps = torch.nn.functional.one_hot(torch.from_numpy(label_map), 3).movedim(-1, 0)[None].float()
    asked = []
    monkeypatch.setattr(volume, "_ask", lambda new, *, previous: asked.append((new, previous)) or maps)
    return asked


BIG, SMALL = Box(1, (2, 3, 4), (37, 30, 50)), Box(1, (10, 5, 10), (20, 15, 20))


def test_a_large_box_gives_what_model_b_finds_of_its_class_in_it(of_boxes, monkeypatch):
    found = np.random.default_rng(0).integers(0, 3, SIZE)
    asked = proposing(of_boxes, found, monkeypatch)
    of_boxes.prompt(boxes=[BIG])
    np.testing.assert_array_equal(answer(of_boxes), np.where(inside_of(BIG) & (found == 1), 1, 0))
    ((new, previous),) = asked
    assert (new.boxes, new.clicks, previous) == ([BIG], [], None)


def test_where_model_b_finds_nothing_and_in_a_small_box_the_border_moves(of_boxes, monkeypatch):
    asked = proposing(of_boxes, np.zeros(SIZE, dtype=np.int64), monkeypatch)
    for box, times in ((BIG, 1), (SMALL, 1)):
        of_boxes.prompt(boxes=[box])
        assert len(asked) == times
        turned = answer(of_boxes) == 1
        assert turned.any()
        assert not (turned & ~inside_of(box)).any()
        of_boxes.reset(np.zeros(SIZE, dtype=np.int64))


def test_a_box_of_a_class_that_fills_it_says_nothing_new(volume, monkeypatch):
    start = np.zeros(SIZE, dtype=np.int64)
    start[4:36, 4:29, 6:49] = 1
    volume.reset(start)
    asked = proposing(volume, np.ones(SIZE, dtype=np.int64), monkeypatch)
    volume.prompt(boxes=[BIG])
    np.testing.assert_array_equal(answer(volume), start)
    assert not asked


def test_where_some_of_the_class_is_there_a_large_box_adds_what_is_thick(volume, monkeypatch):
    start = np.zeros(SIZE, dtype=np.int64)
    start[4:20, 4:29, 6:49] = 1
    found = np.zeros(SIZE, dtype=np.int64)
    found[3:36, 3:30, 5:50] = 1  # the other half, and a voxel more all around
    volume.reset(start)
    proposing(volume, found, monkeypatch)
    volume.prompt(boxes=[BIG])
    assert (answer(volume)[24:34, 6:27, 8:46] == 1).all()
    assert not (answer(volume)[4:16, 3, 6:49]).any()
    assert not (answer(volume)[3, 4:29, 6:49]).any()


def test_a_box_of_background_takes_the_pieces_that_end_in_it(volume):
    start = np.zeros(SIZE, dtype=np.int64)
    start[5:9, 5:9, 12:16], start[12:15, 5:9, 12:16], start[30:39, 5:30, 5:60] = 1, 2, 1
    volume.reset(start)
    volume.prompt([Click(2, (13, 6, 13))], boxes=[Box(0, (3, 3, 10), (17, 12, 18))])
    assert not answer(volume)[5:9, 5:9, 12:16].any()
    assert answer(volume)[13, 6, 13] == 2  # what was said stays
    assert (answer(volume)[30:39, 5:30, 5:60] == 1).all()


def test_what_was_clicked_stays_in_a_box(of_boxes, monkeypatch):
    proposing(of_boxes, np.ones(SIZE, dtype=np.int64), monkeypatch)
    of_boxes.prompt([Click(2, (20, 11, 30)), Click(0, (30, 20, 30))], boxes=[BIG])
    assert (answer(of_boxes)[20, 11, 30], answer(of_boxes)[30, 20, 30]) == (2, 0)
    assert (answer(of_boxes) == 1).sum() == inside_of(BIG).sum() - 2


def test_reset_gives_the_automatic_answer_or_another_one(volume, model):
    before = answer(volume)
    volume.prompt([Click(wrong(volume, (3, 3, 3)), (3, 3, 3))])
    volume.reset()
    np.testing.assert_array_equal(answer(volume), before)
    start = np.random.default_rng(0).integers(0, 3, SIZE)
    volume.reset(start)
    np.testing.assert_array_equal(answer(volume), start)
    torch.testing.assert_close(volume.probabilities.sum(dim=1), torch.ones(1, *SIZE))
    assert not volume.said.clicks


def test_only_windows_that_a_prompt_touches_are_asked(volumes, model, monkeypatch):
    asked = []
    own = model.answer
    monkeypatch.setattr(model, "answer", lambda seen, *a, **k: asked.append(seen) or own(seen, *a, **k))
    for thorough, place, windows in ((True, (0, 0, 0), 1), (True, (20, 11, 30), 12), (False, (20, 11, 30), 1)):
        volume = volumes[thorough]
        volume.reset()
        holding = sum(all(s.start <= i < s.stop for s, i in zip(w, place, strict=True)) for w in volume.volume.windows)
        asked.clear()
        volume.prompt([Click(1, place)])
        assert len(asked) == (2 * holding if thorough else 1)
        assert holding == windows or not thorough


def test_where_model_a_answers_model_b_sees_a_window_when_it_is_asked(model, monkeypatch):
    """The first answer is inference's, and what a click gives is what it gives with everything seen."""
    image = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    inferer = PromptedSlidingWindowInferer(ROI, precision="fp32")
    monkeypatch.setattr(model, "predictor", "a")
    volume = InteractiveVolume(image, model, inferer)
    torch.testing.assert_close(volume.automatic.probabilities, inferer(image, model), rtol=0, atol=0)
    click = Click(wrong(volume, (20, 11, 30)), (20, 11, 30))
    with patch.object(model, "see", side_effect=AssertionError("nobody asked")):
        lazily = volume.prompt([click]).clone()
    volume.reset()
    volume.seen = volume.volume
    torch.testing.assert_close(volume.prompt([click]), lazily, rtol=0, atol=1e-5)


def test_the_one_window_holds_the_click_deepest(volumes):
    volume = volumes[False]
    starts = [tuple(side.start for side in volume.volume.windows[i]) for i in volume._windows_at((20, 17, 32))]
    assert starts in ([(8, 0, 16)], [(8, 1, 16)])  # equally deep: 12 voxels from the rim along the first axis
    # The volume's own rim is none.
    for voxel, start in {(0, 0, 60): [0, 0, 29], (2, 2, 29): [0, 0, 16], (38, 31, 29): [8, 1, 16]}.items():
        (index,) = volume._windows_at(voxel)
        assert [side.start for side in volume.volume.windows[index]] == start


def test_the_former_probabilities_are_not_written_to(volume):
    former = volume.probabilities
    kept = former.clone()
    volume.prompt([Click(wrong(volume, (8, 8, 8)), (8, 8, 8))])
    assert torch.equal(former, kept)


def test_model_b_is_asked_around_what_is_new_and_knows_all_that_was_said(volume):
    first, second = Click(wrong(volume, (20, 11, 30)), (20, 11, 30)), Click(wrong(volume, (24, 16, 26)), (24, 16, 26))
    volume.prompt([first])
    with patch.object(volume.network, "answer", wraps=volume.network.answer) as asked:
        volume.prompt([second])
    calls = [(call.args[1], call.kwargs["asked"]) for call in asked.call_args_list]
    assert calls
    assert {known.point_labels.shape[1] for known, _ in calls} == {2}
    assert {new.point_labels.tolist()[0][0] for _, new in calls} == {second.label}
    assert {new.point_labels.shape[1] for _, new in calls} == {1}


def test_a_scribble_moves_the_border_before_model_b_looks(volume):
    line = Scribble(wrong(volume, (9, 9, 40)), [(9, y, 40) for y in range(5, 15)])
    with patch.object(interactive, "with_moved_borders", wraps=with_moved_borders) as moved:
        volume.prompt(scribbles=[line])
    ((call,),) = [moved.call_args_list]
    assert call.kwargs["scribbles"] == [line]
    assert (answer(volume)[9, 5:15, 40] == line.label).all()


class Proposing:
    """An inferer that finds nothing but background at first, and then proposes an answer."""

    def __init__(self, proposed):
        self.answers = [torch.eye(3)[0].view(1, 3, 1, 1, 1).expand(1, 3, *SIZE), proposed]

    def see(self, inputs, _network):
        whole = tuple(slice(0, size) for size in SIZE)
        return SimpleNamespace(
            image=inputs, size=SIZE, windows=[whole], points=[], inside=(slice(None), slice(None), *whole)
        )

    def answer(self, *_, **__):
        return self.answers.pop(0)

    def prediction(self, _volume, answer, _network):
        return SimpleNamespace(probabilities=answer)


def test_of_what_is_proposed_the_piece_at_the_click_alone_is_taken(monkeypatch):
    """Beside it: a piece of its class that does not touch it, and one of another class that does."""
    here, apart, other = torch.zeros(3, *SIZE, dtype=torch.bool)
    here[4:9, 5:12, 20:33] = True
    apart[11:15, 5:12, 20:33] = True
    other[4:9, 12:20, 20:33] = True
    proposed = torch.full((1, 3, *SIZE), 0.1)
    for label, where in ((0, ~(here | apart | other)), (1, here | apart), (2, other)):
        proposed[0, label, where] = 0.8
    monkeypatch.setattr(interactive, "with_moved_borders", lambda probabilities, *_, **__: probabilities)
    network = SimpleNamespace(predictor="average", model_b=SimpleNamespace(relative_spacing=(1, 1, 1)))
    volume = InteractiveVolume(torch.zeros(1, 1, *SIZE), network, Proposing(proposed))
    expected = torch.where(here, proposed, volume.probabilities)
    expected[0, :, 6, 7, 21] = torch.tensor([0.005, 0.99, 0.005])  # what was said is certain
    volume.prompt([Click(1, (6, 7, 21))])
    torch.testing.assert_close(volume.probabilities, expected, rtol=0, atol=1e-6)
    assert torch.equal(volume.label_map[0, 0] == 1, here)
