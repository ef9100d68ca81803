"""Clicks of a viewer, what is kept between them, and which segment is which class."""

import os
import threading

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from aps_components import Predictor
from aps_components.inference.interactive import InteractiveVolume
from aps_components.interactive import load_model
from aps_components.label_server.clicks import Clicks, asked_points
from aps_components.label_server.label_names import (
    Served,
    bundles_by_most_names,
    bundles_by_value,
    is_of,
    named_values,
    names_in_order,
    renumbered,
    served_bundles,
)
from aps_components.label_server.parameters import RefusedRequestError, check_inference
from aps_components.models import build_auto_prompt_seg, save_settings

VALUES = {"kidney": 1, "liver": 2, "background": 0}
SHAPE = (31, 43, 19)
AFFINE = np.array([[0.0, -1.0, 0, 20], [-0.75, 0, 0, 35], [0, 0, 2.5, -7], [0, 0, 0, 1]])
ROI = [32, 32, 32]
NETWORK = {"filters": 4, "sam_variant": "tiny", "prompts": {"min_probability": 0.1, "radius": 4}}
SETTINGS = {
    "labels": {"0": "background", "1": "kidney", "2": "liver"},
    "spacing": [1.5, 1.25, 2.0],
    "roi_size": ROI,
    "intensity": "zscore",
    "simulated_user": {},
    "precision": "fp32",
    "network_def": NETWORK,
}


def write_scan(file, seed):
    values = gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 2).astype(np.float32)
    nib.save(nib.Nifti1Image(values, AFFINE), file)
    return file


@pytest.fixture
def weights(tmp_path):
    file = tmp_path / "model.pt"
    torch.manual_seed(0)
    torch.save(build_auto_prompt_seg(num_classes=3, roi_size=ROI, **NETWORK).state_dict(), file)
    save_settings(SETTINGS, file)
    return file


class Counted(Clicks):
    """Knows how often an image was seen."""

    seen = 0

    def __init__(self, **options):
        super().__init__(lambda file, device: load_model(file, device, settings={"precision": "fp32"}), **options)


@pytest.fixture
def clicks(monkeypatch):
    clicks = Counted()
    see = Predictor.set_image

    def set_image(self, scan):
        clicks.seen += 1
        see(self, scan)

    monkeypatch.setattr(Predictor, "set_image", set_image)
    return clicks


@pytest.fixture
def scan(tmp_path):
    return write_scan(tmp_path / "a.nii.gz", 0)


def test_points_of_a_request():
    request = {
        "kidney": [[1, 2, 3]],
        "liver": [],
        "background": [[4, 5, 6], [4, 5, 6]],
        "label": "kidney",
        "device": "x",
    }
    assert asked_points(request, VALUES) == {1: [(1, 2, 3)], 0: [(4, 5, 6)]}
    assert asked_points({"label": "liver", "foreground": [[7, 8, 9]]}, VALUES) == {2: [(7, 8, 9)]}
    for wrong in ({"kidney": [[1, 2]]}, {"kidney": [1, 2, 3]}, {"foreground": [[1, 2, 3]]}):
        with pytest.raises(RefusedRequestError):
            asked_points(wrong, VALUES)


def test_points_are_parameters_of_the_classes_alone():
    check_inference({"kidney": [[1, 2, 3]], "device": "cpu"}, classes=VALUES)
    for wrong in ({"spleen": [[1, 2, 3]]}, {"kidney": "$print(1)"}, {"kidney": [["$1", 2, 3]]}):
        with pytest.raises(RefusedRequestError):
            check_inference(wrong, classes=VALUES)


def test_further_points_are_said_to_the_same_image_and_earlier_ones_stay(clicks, weights, scan):
    said = {1: [(3, 4, 5)]}
    first = clicks.answer(scan, said, checkpoint=weights)
    said = {1: [(3, 4, 5)], 2: [(20, 30, 11)], 0: [(9, 9, 9)]}
    second = clicks.answer(scan, said, checkpoint=weights)
    assert clicks.seen == 1
    assert first.label_map[3, 4, 5] == 1
    assert [second.label_map[voxel] for voxel in ((3, 4, 5), (20, 30, 11), (9, 9, 9))] == [1, 2, 0]
    assert clicks.answer(scan, said, checkpoint=weights) is second  # nothing new was said

    predictor = Predictor(load_model(weights, "cpu", settings={"precision": "fp32"}))
    predictor.set_image(scan)
    predictor.predict([((3, 4, 5), 1)])
    expected = predictor.predict([((20, 30, 11), 2), ((9, 9, 9), 0)])
    assert np.array_equal(second.label_map, expected.label_map)


def test_a_point_that_is_taken_back_leaves_nothing(clicks, weights, scan):
    automatic = clicks.answer(scan, {}, checkpoint=weights).label_map
    clicks.answer(scan, {1: [(3, 4, 5)], 2: [(20, 30, 11)]}, checkpoint=weights)
    one = clicks.answer(scan, {2: [(20, 30, 11)]}, checkpoint=weights).label_map
    fresh = Counted().answer(scan, {2: [(20, 30, 11)]}, checkpoint=weights).label_map
    assert np.array_equal(one, fresh)
    assert np.array_equal(clicks.answer(scan, {}, checkpoint=weights).label_map, automatic)
    assert clicks.seen == 2  # the fresh one's is counted, too


def test_scans_are_known_by_content_and_the_oldest_goes(clicks, weights, scan, tmp_path):
    copy = tmp_path / "copy.nii.gz"
    copy.write_bytes(scan.read_bytes())
    clicks.answer(scan, {1: [(3, 4, 5)]}, checkpoint=weights)
    clicks.answer(copy, {1: [(3, 4, 5)]}, checkpoint=weights)
    assert clicks.seen == 1
    others = [write_scan(tmp_path / f"{seed}.nii.gz", seed) for seed in (1, 2)]
    for other in others:
        clicks.answer(other, {}, checkpoint=weights)
    clicks.answer(others[0], {}, checkpoint=weights)
    assert clicks.seen == 3
    clicks.answer(scan, {}, checkpoint=weights)
    assert clicks.seen == 4
    write_scan(scan, 7)  # another scan under the same name
    clicks.answer(scan, {}, checkpoint=weights)
    assert clicks.seen == 5


def test_new_weights_wait_until_a_scan_is_begun_anew(clicks, weights, scan):
    said = {1: [(3, 4, 5)]}
    clicks.answer(scan, said, checkpoint=weights)
    os.utime(weights, ns=(1, 1))  # as after an epoch of a training
    clicks.answer(scan, {**said, 0: [(9, 9, 9)]}, checkpoint=weights)
    assert clicks.seen == 1
    clicks.answer(scan, said, checkpoint=weights)
    assert clicks.seen == 2


def test_what_a_person_said_wrong_is_refused_and_nothing_has_changed(clicks, weights, scan):
    before = clicks.answer(scan, {1: [(3, 4, 5)]}, checkpoint=weights).label_map
    with pytest.raises(RefusedRequestError, match="outside the scan"):
        clicks.answer(scan, {1: [(3, 4, 5), (99, 0, 0)]}, checkpoint=weights)
    assert np.array_equal(clicks.answer(scan, {1: [(3, 4, 5)]}, checkpoint=weights).label_map, before)
    save_settings({**SETTINGS, "simulated_user": None}, weights)
    with pytest.raises(RefusedRequestError, match="trained without prompts"):
        Counted().answer(scan, {}, checkpoint=weights)


def test_scribbles_go_on_from_what_the_viewer_shows(clicks, weights, scan):
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[5:15, 8:20, 3:12] = 2
    line = np.array([[7, 10, 5], [8, 10, 5], [9, 10, 5]])
    answer = clicks.scribbled(scan, [(line, 1), (np.zeros((0, 3), int), 0)], mask=mask, checkpoint=weights)
    assert (answer.label_map[tuple(line.T)] == 1).all()
    far = np.ones(SHAPE, dtype=bool)
    far[:, :, :12] = False
    assert (answer.label_map[far & (mask == 0)] != 2).all()


def test_clicks_after_scribbles_begin_with_the_automatic_answer(clicks, weights, scan):
    """A viewer sends all its points, and the scribbles of another tool are none of them."""
    said = {1: [(3, 4, 5)]}
    fresh = clicks.answer(scan, said, checkpoint=weights).label_map
    automatic = Counted().answer(scan, {}, checkpoint=weights).label_map
    line = np.array([[7, 10, 5], [8, 10, 5], [9, 10, 5]])

    def scribble():
        clicks.scribbled(scan, [(line, 1)], mask=np.full(SHAPE, 2, dtype=np.uint8), checkpoint=weights)

    scribble()
    assert np.array_equal(clicks.answer(scan, said, checkpoint=weights).label_map, fresh)
    scribble()
    assert np.array_equal(clicks.answer(scan, {}, checkpoint=weights).label_map, automatic)
    scribble()
    with pytest.raises(RefusedRequestError, match="outside the scan"):
        clicks.answer(scan, {1: [(99, 0, 0)]}, checkpoint=weights)
    assert np.array_equal(clicks.answer(scan, said, checkpoint=weights).label_map, fresh)


def test_a_new_beginning_that_fails_midway_leaves_nothing_behind(clicks, weights, scan, monkeypatch):
    said = {1: [(3, 4, 5)], 2: [(20, 30, 11)]}
    more = {**said, 0: [(9, 9, 9)]}
    fresh = Counted().answer(scan, more, checkpoint=weights).label_map
    clicks.answer(scan, said, checkpoint=weights)
    predict = Predictor.predict

    def fail(self, points, *, reset):
        predict(self, points[:1], reset=reset)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict", fail)
        with pytest.raises(MemoryError):
            clicks.answer(scan, said, checkpoint=weights, reset=True)
    assert np.array_equal(clicks.answer(scan, more, checkpoint=weights).label_map, fresh)


def test_a_further_click_that_fails_midway_was_not_said(clicks, weights, scan, monkeypatch):
    said = {1: [(3, 4, 5)], 2: [(20, 30, 11)]}
    failed, other = {**said, 2: [*said[2], (9, 9, 9)]}, {**said, 0: [(9, 12, 9)]}
    fresh = Counted().answer(scan, other, checkpoint=weights).label_map
    clicks.answer(scan, said, checkpoint=weights)

    def full(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(InteractiveVolume, "_ask", full)
        with pytest.raises(MemoryError):
            clicks.answer(scan, failed, checkpoint=weights)
    answer = clicks.answer(scan, other, checkpoint=weights)
    assert (9, 9, 9) not in answer._named
    assert np.array_equal(answer.label_map, fresh)


@pytest.mark.parametrize(
    ("info", "names"),
    [
        ([{"name": "Liver", "idx": 2}, {"name": "Kidney", "idx": 3}], ["liver", "kidney"]),
        ([{"name": "background", "idx": 1}, {"name": "kidney", "idx": 2}], ["kidney"]),
        ([{"color": [1, 2, 3]}], []),
        ([], []),
        (None, []),
    ],
)
def test_names_that_a_viewer_gives_its_segments(info, names):
    assert names_in_order(info) == names


@pytest.fixture
def drawn(tmp_path):
    """A label of two segments, numbered from 1: its file and voxels."""
    voxels = np.array([[[0, 1, 2], [2, 1, 0]]], dtype=np.uint8)
    file = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(voxels, AFFINE), file)
    return file, voxels


def served(name, classes, **label_values):
    return Served(name, classes, {int(value[1:]): label for value, label in label_values.items()})


ABDOMEN = served("abdomen", {"spleen": 1, "liver": 2, "kidney": 3})
KIDNEYS = served("kidneys", {"left": 1, "right": 2}, _2=1, _3=2)
ORGANS = served("organs", {"kidney": 1, "liver": 2})


def stored(file, *names, among, **info):
    """Voxels of the label as it is kept, and the names of its bundles."""
    with renumbered(file, {"label_info": [{"name": name} for name in names], **info}, among) as (renamed, bundles):
        loaded = nib.load(renamed)
        assert np.allclose(loaded.affine, AFFINE, atol=1e-4)
        return np.asanyarray(loaded.dataobj), [bundle.name for bundle in bundles]


@pytest.mark.parametrize(
    ("names", "values", "bundle"),
    [
        (("liver", "Kidney"), [0, 2, 1], "organs"),
        (("kidney", "liver"), [0, 1, 2], "organs"),
        (("left", "right"), [0, 2, 3], "kidneys"),  # a training reads a 2 as class 1, and a 3 as class 2
        (("right", "left"), [0, 3, 2], "kidneys"),
        (("left", "left"), [0, 2, 2], "kidneys"),
        ((), [0, 1, 2], None),
    ],
)
def test_a_label_gets_the_values_that_training_reads_as_its_classes(drawn, names, values, bundle):
    file, voxels = drawn
    label, bundles = stored(file, *names, among=[KIDNEYS, ORGANS])
    assert np.array_equal(label, np.array(values)[voxels])
    assert bundles == ([bundle] if bundle else [])
    if names:
        of_class = {one.name: one for one in (KIDNEYS, ORGANS)}[bundle]
        expected = np.array([0, *(of_class.classes[name.lower()] for name in names)])[voxels]
        assert np.array_equal(of_class.class_map(label), expected)


def test_values_of_label_files_may_be_large(drawn):
    file, voxels = drawn
    label, _ = stored(file, "left", "right", among=[served("atlas", {"left": 1, "right": 2}, _17=1, _1002=2)])
    assert np.array_equal(label, np.array([0, 17, 1002])[voxels])


def test_the_bundle_of_a_label_is_known_said_or_asked_for(drawn):
    file, _ = drawn
    both = [ABDOMEN, ORGANS]
    with pytest.raises(
        RefusedRequestError, match=r"'kidney' has another value in labels of abdomen than of organs: say"
    ):
        stored(file, "kidney", "liver", among=both)
    assert stored(file, "kidney", "liver", among=both, bundle="organs")[1] == ["organs"]
    assert stored(file, "kidney", "liver", "spleen", among=both)[1] == ["abdomen"]  # the only one that knows the third
    for model in ("organs", "organs_clicks", "organs_scribbles"):  # as 3D Slicer says what it was set to
        assert stored(file, "kidney", "liver", among=both, model=model)[1] == ["organs"]
    assert stored(file, "kidney", "liver", "spleen", among=both, model="organs")[1] == ["abdomen"]
    alike = [ORGANS, served("same", dict(ORGANS.classes))]
    assert stored(file, "liver", "kidney", among=alike)[1] == ["organs", "same"]
    assert stored(file, among=both)[1] == []
    assert stored(file, among=both, bundle="organs")[1] == ["organs"]
    assert stored(file, among=[ORGANS])[1] == ["organs"]
    for wrong in ("liver", 3, [["organs"]]):
        with pytest.raises(RefusedRequestError, match="none of the bundles that are served: abdomen, organs"):
            stored(file, among=both, bundle=wrong)


def test_a_class_that_was_not_drawn_is_asked_for_too(tmp_path):
    """Both call the liver 1, and the second would learn that there is no spleen here."""
    file = tmp_path / "liver.nii.gz"
    nib.save(nib.Nifti1Image(np.array([[[0, 1, 1], [0, 1, 0]]], dtype=np.uint8), AFFINE), file)
    both = [served("tumours", {"liver": 1, "tumour": 2}), served("abdomen", {"liver": 1, "spleen": 2})]
    of_either = "could be of tumours or of abdomen, .* different classes"
    with pytest.raises(RefusedRequestError, match=f"{of_either}: say which one"):
        stored(file, "liver", among=both)
    assert stored(file, "liver", among=both, model="abdomen_clicks")[1] == ["abdomen"]
    assert stored(file, "liver", among=both, bundle="tumours")[1] == ["tumours"]
    assert stored(file, "liver", "tumour", among=both)[1] == ["tumours"]
    with pytest.raises(RefusedRequestError, match=f"{of_either}: serve one"):
        bundles_by_most_names(["liver"], both)
    with pytest.raises(RefusedRequestError, match="could be of tumours or abdomen: name its segments, or say"):
        bundles_by_value([1], both)


def test_what_values_mean_is_kept_with_a_label():
    assert KIDNEYS.meaning == {"0": "", "1": "left", "2": "left", "3": "right"}
    again = served("again", dict(KIDNEYS.classes), _2=1, _3=2)
    assert is_of({"bundle": ["kidneys"], "values": KIDNEYS.meaning}, again)
    assert not is_of({"bundle": ["kidneys"], "values": KIDNEYS.meaning}, served("kidneys", dict(KIDNEYS.classes)))
    assert is_of({"bundle": ["kidneys"]}, KIDNEYS)  # of an earlier version
    assert not is_of({"bundle": ["kidneys"]}, again)


def test_segments_that_no_bundle_knows_are_named(drawn):
    file, _ = drawn
    with pytest.raises(RefusedRequestError, match="segment_1"):
        stored(file, "kidney", "Segment_1", among=[ORGANS])
    with pytest.raises(RefusedRequestError, match="not of one model"):
        stored(file, "kidney", "left", among=[KIDNEYS, ORGANS])


@pytest.mark.parametrize("value", [3, 0.5, -1, np.nan, np.inf])
def test_of_named_segments_no_voxel_has_another_number(tmp_path, value):
    file = tmp_path / "odd.nii.gz"
    nib.save(nib.Nifti1Image(np.array([[[0, 1, 2], [value, 1, 0]]], dtype=np.float32), AFFINE), file)
    with pytest.raises(RefusedRequestError, match=rf"the label odd.nii.gz has the value {value:g}, and its 2 segments"):
        stored(file, "kidney", "liver", among=[ORGANS])


def test_segments_that_are_no_class_become_background(drawn):
    _, voxels = drawn
    assert named_values(voxels, ["x", "liver"], {"liver": 2}).tolist() == [[[0, 0, 2], [2, 0, 0]]]


def test_bundles_of_an_earlier_start_are_not_served(tmp_path):
    (tmp_path / "model" / "earlier").mkdir(parents=True)
    assert served_bundles(tmp_path, {"models": "mine, la"}) == {
        name: tmp_path / "model" / name for name in ("mine", "la")
    }


def test_a_click_does_not_wait_for_another_scan_to_be_opened(clicks, weights, scan, tmp_path, monkeypatch):
    clicks.answer(scan, {1: [(3, 4, 5)]}, checkpoint=weights)
    other = write_scan(tmp_path / "b.nii.gz", 1)
    begun, go_on = threading.Event(), threading.Event()
    see = Predictor.set_image

    def slowly(self, which):
        begun.set()
        assert go_on.wait(60)
        see(self, which)

    monkeypatch.setattr(Predictor, "set_image", slowly)
    opening = threading.Thread(target=clicks.answer, args=(other, {1: [(3, 4, 5)]}), kwargs={"checkpoint": weights})
    opening.start()
    assert begun.wait(60)
    answer = clicks.answer(scan, {1: [(3, 4, 5)], 2: [(9, 9, 9)]}, checkpoint=weights)
    assert answer.label_map[9, 9, 9] == 2
    assert opening.is_alive()
    go_on.set()
    opening.join(60)
    assert clicks.seen == 2


def test_two_who_open_the_same_scan_look_at_it_once(clicks, weights, scan):
    asked = [{1: [(3, 4, 5)]}, {1: [(3, 4, 5)]}]
    threads = [
        threading.Thread(target=clicks.answer, args=(scan, each), kwargs={"checkpoint": weights}) for each in asked
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert clicks.seen == 1
