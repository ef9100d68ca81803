from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from aps_components.evaluation.preview import COLOURS, busiest_slices, millilitres, save_preview, worst_error

SHAPE, AFFINE = (17, 24, 40), np.diag([0.7, 0.9, 3.0, 1.0])
IMAGE = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def boxes(count):
    label_map = np.zeros(SHAPE, dtype=np.uint8)
    for label in range(1, count + 1):
        label_map[2 * (label % 4) : 2 * (label % 4) + 3, label : label + 4, 2 * label : 2 * label + 4] = label
    return label_map


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is saved, to look into."""
    seen, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (seen.append(self), save(self, *a, **k))[1])
    return seen


def draw(path, label_map=None, *, affine=AFFINE, image=IMAGE, classes=1, **options):
    label_map = boxes(classes) if label_map is None else label_map
    volumes = {label: (f"class {label}", 0.1 * label) for label in range(1, classes + 1)}
    return save_preview(path, image=image, label_map=label_map, affine=affine, volumes=volumes, **options)


def test_each_class_counts_as_a_whole_in_the_choice_of_the_planes():
    label_map = np.zeros(SHAPE, dtype=np.uint8)
    label_map[0:10, 0:10, 5:15] = 1  # large, the same in every slice
    label_map[12, 20, 30] = label_map[12, 21, 30] = 2  # small, all of it in one slice
    assert busiest_slices(label_map) == (12, 20, 30)
    label_map[label_map == 2] = 0
    label_map[9, 9, 15] = 1
    assert busiest_slices(label_map) == (9, 9, 5)
    assert busiest_slices(np.zeros(SHAPE, dtype=np.uint8)) == (8, 12, 20)


def test_planes_of_a_scan_of_many_voxels_are_chosen_from_some_of_them(monkeypatch):
    monkeypatch.setattr("aps_components.evaluation.preview.SAMPLES", 2000)
    d, h, w = np.ogrid[:37, :52, :41]
    label_map = ((d - 12) ** 2 + (h - 30) ** 2 + (w - 23) ** 2 < 11**2).astype(np.uint8)
    np.testing.assert_allclose(busiest_slices(label_map), (12, 30, 23), atol=2)
    label_map[:] = 0
    label_map[1, 1, 1] = label_map[-2, -2, -2] = 1  # perhaps none of these is looked at
    assert busiest_slices(label_map)


def test_the_picture_does_not_depend_on_how_the_memory_lies(tmp_path):
    one = draw(tmp_path / "c.png", classes=3)
    other = draw(tmp_path / "f.png", np.asfortranarray(boxes(3)), image=np.asfortranarray(IMAGE), classes=3)
    assert (imread(one) == imread(other)).all()


def test_planes_are_drawn_at_one_scale_and_in_proportion(tmp_path, figures):
    draw(tmp_path / "new" / "a.png", classes=3)
    axes = figures[0].axes
    inches = [ax.get_position().size * figures[0].get_size_inches() for ax in axes]
    extent = [size * step for size, step in zip(SHAPE, (0.7, 0.9, 3.0), strict=True)]
    for size, (left, up) in zip(inches, ((0, 1), (0, 2), (1, 2)), strict=True):
        np.testing.assert_allclose(size, np.array([extent[left], extent[up]]) * inches[0][0] / extent[0])
    assert imread(tmp_path / "new" / "a.png").shape[2] == 4


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_the_patients_right_is_on_the_left_however_the_scan_is_stored(tmp_path, figures, signs):
    """A bright corner at the right, the front and the top lies at the upper left of the axial plane."""
    flips = tuple(slice(None, None, sign) for sign in signs)
    image, label_map = np.zeros(SHAPE), np.zeros(SHAPE, dtype=np.uint8)
    image[9:, 12:, 20:], label_map[9:, 12:, 20:] = 1, 1
    affine = AFFINE @ np.diag([*signs, 1])
    draw(tmp_path / "a.png", label_map[flips], image=image[flips], affine=affine)
    for ax, corner in zip(figures[0].axes, ("RA", "RS", "AS"), strict=True):
        shown, (left, right), (bottom, top) = ax.images[0].get_array(), ax.get_xlim(), ax.get_ylim()
        assert left > right
        assert bottom < top
        assert shown[-1, -1] == 1
        assert shown[-1, 0] == shown[0, -1] == 0
        assert corner[0] == next(text.get_text() for text in ax.texts if text.get_position()[0] == 0.02)
        assert corner[1] == next(text.get_text() for text in ax.texts if text.get_position() == (0.5, 0.98))


def test_an_oblique_scan_is_turned_to_the_nearest_axes(tmp_path, figures):
    """Stored as z, x, y, and a little oblique: the planes have the sizes of the patient's axes."""
    turned = AFFINE @ np.array([[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    turned[:3, :3] = np.array([[0.995, -0.0998, 0], [0.0998, 0.995, 0], [0, 0, 1]]) @ turned[:3, :3]
    draw(tmp_path / "a.png", boxes(1).transpose(2, 0, 1), image=IMAGE.transpose(2, 0, 1), affine=turned)
    assert [ax.images[0].get_array().shape for ax in figures[0].axes] == [(24, 17), (40, 17), (40, 24)]


def test_fifteen_classes_have_fifteen_colours_and_lines_that_do_not_touch(tmp_path, figures):
    draw(tmp_path / "a.png", classes=15, title="a", note="n")
    assert len(set(COLOURS)) == len(COLOURS) >= 15
    far = min(
        np.linalg.norm(np.subtract(to_rgb(one), to_rgb(other)))
        for index, one in enumerate(COLOURS[:15])
        for other in COLOURS[:index]
    )
    assert far > 0.19
    figure = figures[0]
    names = [text for text in figure.texts if text.get_text().startswith("class ")]
    boxes = [text.get_window_extent() for text in names]
    assert len(names) == 15
    assert all(upper.y0 > lower.y1 for upper, lower in pairwise(boxes))
    height = figure.bbox.height
    assert all(box.y0 > 0 and box.y1 < height and box.x1 < figure.bbox.width for box in boxes)


def test_an_empty_class_has_no_millilitres(tmp_path, figures):
    save_preview(
        tmp_path / "a.png",
        image=IMAGE,
        label_map=np.zeros(SHAPE, dtype=np.uint8),
        affine=AFFINE,
        volumes={1: ("something of a name that is much too long", 0.0), 2: ("b", 1234.56)},
    )
    texts = [text.get_text() for text in figures[0].texts]
    assert {"\N{EN DASH}", "1234.6"} <= set(texts)
    assert max(map(len, texts)) == 24


def test_a_constant_scan_can_be_drawn(tmp_path):
    assert draw(tmp_path / "a.png", image=np.full(SHAPE, 7.0)).is_file()


def test_the_worst_error_is_where_what_is_wrong_is_thickest_in_mm():
    """A blob of 5 x 5 voxels in one slice of 10 mm is deeper than a column of 1 x 3 voxels through nine slices."""
    truth, answer = np.zeros(SHAPE, dtype=np.uint8), np.zeros(SHAPE, dtype=np.uint8)
    answer[3:8, 10:15, 4] = 1
    answer[14:15, 2:5, 20:29] = 1
    assert worst_error(answer, truth, spacing=(1.5, 1.5, 10)) == (5, 12, 4)
    assert worst_error(answer[:, :, 10:], truth[:, :, 10:], spacing=(1.5, 1.5, 10))[0] == 14
    assert worst_error(truth, truth, spacing=(1.5, 1.5, 10)) is None


def test_a_confused_class_is_an_error_and_one_at_the_edge_is_found():
    truth = boxes(2)
    assert worst_error(np.where(truth == 2, 1, truth), truth, spacing=(1, 1, 1)) is not None
    answer = np.zeros(SHAPE, dtype=np.uint8)
    answer[-1, -1, -1] = 3
    assert worst_error(answer, np.zeros_like(answer), spacing=(1, 1, 1)) == (16, 23, 39)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_with_the_truth_all_three_planes_go_through_the_worst_error(tmp_path, figures, signs):
    """Thick slices, 1.5 x 1.5 x 10 mm: every plane shows the wrong voxels, at their own proportions."""
    flips = tuple(slice(None, None, sign) for sign in signs)
    truth, answer = boxes(1), boxes(1)
    answer[10:13, 15:18, 30] = 1
    affine = np.diag([1.5, 1.5, 10, 1]) @ np.diag([*signs, 1])
    image = (answer != truth).astype(float)
    draw(tmp_path / "a.png", answer[flips], image=image[flips], affine=affine, truth=truth[flips])
    assert len(figures[0].axes) == 3
    for ax, aspect in zip(figures[0].axes, (1, 10 / 1.5, 10 / 1.5), strict=True):
        assert ax.images[0].get_array().max() == 1
        assert ax.get_aspect() == pytest.approx(aspect)


def test_the_truths_outline_is_there_also_where_the_answer_has_nothing(tmp_path, figures):
    draw(tmp_path / "a.png", np.zeros(SHAPE, dtype=np.uint8), truth=boxes(1))
    assert all(len(ax.collections) == 1 for ax in figures[0].axes)
    draw(tmp_path / "b.png", boxes(1), truth=boxes(1))
    assert all(len(ax.collections) == 2 for ax in figures[1].axes)


def test_two_grids_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"image \(17, 24, 40\) and label_map \(24, 17, 40\) must have the same shape"):
        draw(tmp_path / "a.png", boxes(1).transpose(1, 0, 2))


@pytest.mark.parametrize(("volume", "text"), [(0, "0.0"), (0.01234, "0.0123"), (4.476, "4.48"), (73.626, "73.6")])
def test_millilitres(volume, text):
    assert millilitres(volume) == text
