from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny_model import AFFINE, SETTINGS, SHAPE

from aps_components.data import DataError
from aps_components.inference import InvertToLabelMapd, inverted
from aps_components.interactive import Predictor, load_model
from aps_components.interactive.predictor import drop_small_pieces
from aps_components.prompts import Box, Click


@pytest.fixture
def predictor(model, scan):
    predictor = Predictor(model)
    predictor.set_image(scan)
    return predictor


def other(answer, voxel):
    """A class that the answer does not have there."""
    return (int(answer.label_map[voxel]) + 1) % 3


def test_the_first_answer_is_that_of_inference(predictor, model, scan):
    answer = predictor.predict()
    data = model.preprocessing({"image": str(scan)})
    probabilities = model.inferer(data["image"].as_tensor()[None], model.network)[0]
    expected = InvertToLabelMapd("pred", model.preprocessing)({"pred": probabilities.clone(), "image": data["image"]})
    assert answer.label_map.shape == SHAPE
    assert (answer.label_map == expected["pred"][0].numpy()).mean() > 0.9999
    own_grid = inverted(model.preprocessing, ("pred",))({"pred": probabilities, "image": data["image"]})["pred"]
    np.testing.assert_allclose(answer.probabilities, own_grid.numpy(), atol=1e-4)
    assert answer.probabilities.dtype == np.float32


def test_an_array_is_the_same_as_its_file(predictor, model, scan):
    again = Predictor(model)
    again.set_image((np.asarray(nib.load(scan).dataobj), AFFINE))
    np.testing.assert_array_equal(again.predict().label_map, predictor.predict().label_map)


def test_a_click_is_obeyed_stays_and_leaves_the_rest_alone(predictor):
    before = predictor.predict()
    first, second = (5, 7, 3), (25, 36, 15)
    once = predictor.predict([(first, other(before, first))])
    assert once.label_map[first] == other(before, first)
    assert once.probabilities[(other(before, first), *first)] > 0.9
    twice = predictor.predict([(second, other(before, second))])
    assert twice.label_map[first] == once.label_map[first]
    assert twice.label_map[second] == other(before, second)
    changed = once.label_map != before.label_map
    assert (once.label_map[changed] == other(before, first)).all()
    assert before.label_map[first] != once.label_map[first]  # an answer that was given stays as it was
    np.testing.assert_array_equal(predictor.predict(reset=True).label_map, before.label_map)


def test_neighbours_finer_than_the_networks_grid_can_be_of_different_classes(predictor):
    """Along the first axis voxels are 0.75 mm, the network's 1.25: several fall into one of its voxels."""
    voxels = [(10, 20, 9), (11, 20, 9), (12, 20, 9)]
    answer = predictor.predict([(voxel, label) for voxel, label in zip(voxels, (1, 2, 0), strict=True)])
    assert [int(answer.label_map[voxel]) for voxel in voxels] == [1, 2, 0]


def test_words_in_mm_names_boxes_and_scribbles(predictor):
    before = predictor.predict()
    voxel = (20, 10, 8)
    world = (AFFINE @ [*voxel, 1])[:3]
    name = predictor.model.labels[other(before, voxel)]
    assert predictor.predict([(world, name)], frame="world").label_map[voxel] == other(before, voxel)
    line = [(4, 30, z) for z in range(5, 9)]
    answer = predictor.predict(scribbles=[(line, "liver")], boxes=[(((2, 2, 2), (12, 12, 8)), 1)])
    assert all(answer.label_map[place] == 2 for place in line)


def test_going_on_from_a_label_map_keeps_it(predictor):
    """Voxel for voxel, also where the network's grid is coarser, and in pieces."""
    mask = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.int16)
    mask[:, :, 10:] = 0
    answer = predictor.predict(mask=mask)
    np.testing.assert_array_equal(answer.label_map, mask)
    voxel = (15, 20, 15)
    clicked = predictor.predict([(voxel, 1)])
    changed = clicked.label_map != mask
    assert changed[voxel]
    assert (clicked.label_map[changed] == 1).all()


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"points": [((99, 0, 0), 1)]}, "outside the scan"),
        ({"points": [((1, 2, 3), "lung")]}, "no class 'lung'"),
        ({"mask": np.zeros((3, 4, 5), dtype=int)}, r"mask \(3, 4, 5\) must have the scan's own shape"),
        ({"mask": np.full(SHAPE, 7)}, "mask holds 7, which is no class"),
    ],
)
def test_what_does_not_fit_changes_nothing(predictor, prompts, message):
    voxel = (5, 7, 3)
    before = predictor.predict([(voxel, other(predictor.predict(), voxel))])
    with pytest.raises(ValueError, match=message):
        predictor.predict(**{"reset": True, **prompts})
    np.testing.assert_array_equal(predictor.predict().label_map, before.label_map)


def test_a_contradiction_is_said(predictor):
    answer = predictor.predict([((1, 2, 3), 1), ((1, 2, 3), 2)])
    assert answer.label_map[1, 2, 3] == 2
    assert len(answer.notes) == 1


def test_a_piece_that_a_person_named_is_kept_beside_the_largest(model_file, scan):
    model = load_model(model_file, "cpu", settings={"largest_component": True})
    predictor = Predictor(model)
    predictor.set_image(scan)
    mine = predictor.predict(points=[((2, 2, 2), 1), ((28, 40, 16), 1), ((2, 40, 2), 2)]).label_map
    assert (mine[2, 2, 2], mine[28, 40, 16], mine[2, 40, 2]) == (1, 1, 2)


@pytest.mark.parametrize(
    ("pieces", "kept"),
    [
        (False, [1, 1, 1, 1]),
        (True, [0, 1, 1, 0]),
        ("joined", [0, 0, 1, 1]),
        ("foreground", [1, 0, 1, 1]),
    ],
)
def test_small_pieces_go_by_the_rule_but_for_those_that_a_person_named(pieces, kept):
    label_map = np.zeros((3, 3, 20), dtype=np.uint8)
    label_map[1, 1, 1:2] = 1  # touches class 2, a second piece of class 1
    label_map[1, 1, 2:5] = 2
    label_map[1, 1, 5:9] = 1
    label_map[1, 1, 12:16] = 2  # the largest of class 2, far away
    places = [(1, 1, 1), (1, 1, 14), (1, 1, 6), (1, 1, 3)]
    found = label_map.copy()
    drop_small_pieces(found, pieces, classes=3, named={})
    assert [int(found[place] > 0) for place in places] == kept
    named = label_map.copy()
    drop_small_pieces(named, pieces, classes=3, named={place: int(label_map[place]) for place in places})
    np.testing.assert_array_equal(named, label_map)


class Phantom:
    """A volume whose answer is a label map, of which a click takes or adds a block."""

    answer, changes = None, {}

    def __init__(self, *_, **__):
        self.automatic = SimpleNamespace(probabilities=certain(self.answer))
        self.reset()

    def reset(self, start=None):
        self.probabilities = self.automatic.probabilities.clone()

    def prompt(self, clicks, *, boxes=(), scribbles=()):
        changed = self.probabilities.argmax(dim=1)[0].numpy()
        for prompt in (*clicks, *boxes):
            changed[self.changes[prompt]] = prompt.label
        self.probabilities = certain(changed)


def certain(label_map):
    """Probabilities of three classes, [1, 3, D, H, W]."""
    return torch.nn.functional.one_hot(torch.from_numpy(label_map.astype(np.int64)), 3).movedim(-1, 0)[None].float()


ORGAN = np.s_[1:11, 1:11, 2:12]  # 1000 voxels
HIDDEN = np.s_[18:28, 1:11, 2:11]  # 900
PART = np.s_[1:11, 1:11, 10:12]  # 200 of the organ
LEAK, NECK = np.s_[1:11, 20:31, 2:12], np.s_[5, 11:20, 5]  # 1100, and 9 between it and the organ


@pytest.fixture
def phantom(model_file, monkeypatch):
    """A predictor for a scan on the network's own grid that holds some blocks of class 1."""

    def make(*blocks, changes):
        answer = np.zeros(SHAPE, dtype=np.uint8)
        for block in blocks:
            answer[block] = 1
        monkeypatch.setattr(Phantom, "answer", answer)
        monkeypatch.setattr(Phantom, "changes", changes)
        monkeypatch.setattr("aps_components.interactive.predictor.InteractiveVolume", Phantom)
        model = load_model(model_file, "cpu", settings={"largest_component": True})
        predictor = Predictor(model)
        spacing = np.diag([*SETTINGS["spacing"], 1.0])
        predictor.set_image((np.random.default_rng(0).normal(size=SHAPE), spacing))
        return predictor

    return make


def test_a_piece_that_was_hidden_stays_hidden_when_the_shown_one_becomes_smaller(phantom):
    click = Click(0, (5, 5, 11))
    predictor = phantom(ORGAN, HIDDEN, changes={click: PART})
    shown = predictor.predict().label_map
    assert (shown[ORGAN] == 1).all()
    assert not shown[HIDDEN].any()
    after = predictor.predict([(click.voxel, 0)]).label_map
    assert (after > 0).sum() == 800
    assert not after[HIDDEN].any()
    assert not after[PART].any()
    np.testing.assert_array_equal(predictor.predict().label_map, after)
    np.testing.assert_array_equal(predictor.predict(reset=True).label_map, shown)


def test_a_leak_that_is_cut_at_its_neck_leaves_the_organ(phantom):
    click = Click(0, (5, 15, 5))
    predictor = phantom(ORGAN, LEAK, NECK, changes={click: NECK})
    after = predictor.predict([(click.voxel, 0)]).label_map
    assert (after[ORGAN] == 1).all()
    assert not after[NECK].any()


def test_what_contradicts_an_earlier_call_is_said(phantom):
    click, other = Click(0, (5, 5, 11)), Click(1, (5, 5, 11))
    predictor = phantom(ORGAN, changes={click: PART, other: PART})
    assert not predictor.predict([(click.voxel, 0)]).notes
    assert not predictor.predict([(click.voxel, 0)]).notes
    assert predictor.predict([(click.voxel, 1)]).notes == [
        "voxel [5, 5, 11] was said to be class 0 and later class 1: the later word counts"
    ]


def test_a_box_changes_nothing_outside_it_and_says_where_it_changes_nothing(phantom):
    box = Box(0, (3, 3, 4), (8, 8, 9))
    whole = Box(1, (0, 0, 0), (12, 12, 12))
    predictor = phantom(ORGAN, changes={box: np.s_[2:10, 2:10, 3:11], whole: ORGAN})
    before = predictor.predict().label_map
    (note,) = predictor.predict(boxes=[((whole.least, whole.greatest), 1)]).notes
    assert "finds no more of class 1 than is there" in note
    after = predictor.predict(boxes=[((box.least, box.greatest), 0)])
    assert not after.notes
    inside = np.zeros(SHAPE, dtype=bool)
    inside[3:9, 3:9, 4:10] = True
    np.testing.assert_array_equal(after.label_map != before, inside)


def test_a_box_in_which_nothing_is_found_is_said(phantom):
    box = Box(2, (17, 0, 1), (29, 12, 12))
    predictor = phantom(ORGAN, changes={box: np.s_[0:0]})
    assert predictor.predict(boxes=[((box.least, box.greatest), 2)]).notes == [
        "box [17, 0, 1] to [29, 12, 12]: the model finds nothing of class 2 in it; click or draw where it is"
    ]


@pytest.mark.parametrize("prompt", [Click(1, (20, 5, 5)), Box(1, (17, 0, 1), (29, 12, 12))])
def test_a_hidden_piece_that_a_person_names_is_shown_from_then_on(phantom, prompt):
    further = Click(0, (5, 5, 11))
    predictor = phantom(ORGAN, HIDDEN, changes={prompt: HIDDEN, further: PART})
    is_click = isinstance(prompt, Click)
    points, boxes = ([(prompt.voxel, 1)], []) if is_click else ([], [((prompt.least, prompt.greatest), 1)])
    both = predictor.predict(points, boxes=boxes).label_map
    assert (both > 0).sum() == 1900
    assert (predictor.predict([(further.voxel, 0)]).label_map > 0).sum() == 1700


def test_without_prompts_in_training_clicks_are_refused_and_the_answer_is_not(model_file, scan):
    model = load_model(model_file, "cpu", settings={"simulated_user": None})
    predictor = Predictor(model)
    predictor.set_image(scan)
    assert predictor.predict().label_map.shape == SHAPE
    with pytest.raises(ValueError, match="trained without prompts"):
        predictor.predict([((1, 2, 3), 1)])


def test_own_points_lie_on_the_scans_grid(predictor):
    assert predictor.own_points
    for point in predictor.own_points:
        assert all(0 <= index < size for index, size in zip(point.voxel, SHAPE, strict=True))


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (np.zeros((3, 4)), AFFINE, r"shape \(3, 4\) where 1 channel"),
        (np.zeros((3, 4, 5, 2)), AFFINE, "1 channel"),
        (np.full((3, 4, 5), np.nan), AFFINE, "NaN"),
        (np.zeros((3, 4, 5)), np.zeros((4, 4)), "invertible"),
        (np.zeros((3, 4, 5)), AFFINE.T, "invertible 4 x 4 matrix from voxel to mm, its last row 0, 0, 0, 1"),
        (np.zeros((3, 4, 5)), np.diag([1, 1, 0, 1]), "the array: its affine .* has no inverse; give the one from"),
        (np.zeros((3, 4, 5)), np.diag([1e3, 1e3, 1e3, 1]), "the array: its voxels are 1000 x .* give an affine in mm"),
        (np.zeros((3, 4, 5)), None, "must be an invertible"),
        (np.zeros((3, 4, 5)), "RAS", r"scan must be \(array, affine\), both of numbers"),
        (np.full((3, 4, 5), 7), AFFINE, "the array: it has no contrast, voxels are 7 everywhere"),
        (np.zeros((3, 4, 5), dtype=complex), AFFINE, "the array: its voxels are of type complex128.* its magnitude"),
        (np.full((3, 4, 5), 1e300), AFFINE, "the array: 60 voxels are NaN or infinite"),
        ([[1], [2, 3]], AFFINE, r"scan must be \(array, affine\), both of numbers"),
    ],
)
def test_arrays_that_are_no_scan(model, array, affine, message):
    predictor = Predictor(model)
    with pytest.raises(DataError, match=message):
        predictor.set_image((array, affine))
    with pytest.raises(RuntimeError, match="call set_image first"):
        predictor.predict()


@pytest.mark.parametrize("scan", [[], None, 5, np.zeros((3, 4, 5)), (np.zeros((3, 4, 5)),)])
def test_what_is_neither_files_nor_an_array_with_its_affine(model, scan):
    with pytest.raises(DataError, match=r"scan must be a file, a list of files, or \(array, affine\), and is .*"):
        Predictor(model).set_image(scan)


def test_a_click_decodes_one_window_and_nothing_is_encoded(predictor, model, monkeypatch):
    decoded = []
    decode = model.network.model_b.decode
    monkeypatch.setattr(model.network.model_b, "decode", lambda *a, **k: decoded.append(1) or decode(*a, **k))
    monkeypatch.setattr(model.network.model_b, "encode", lambda *_: pytest.fail("encoded again"))
    predictor.predict([((5, 7, 3), 1)])
    assert len(decoded) == 1
    with torch.no_grad():
        predictor.predict()
    assert len(decoded) == 1
