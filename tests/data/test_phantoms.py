import itertools
import json
from dataclasses import FrozenInstanceError, replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from aps_components.data import DataError
from aps_components.data.phantoms import (
    REFERENCE_FIELD,
    Ellipsoid,
    Structure,
    Tube,
    dataset,
    draw_phantom,
    render_phantom,
    write_phantoms,
)

SHAPE, SPACING = (72, 64, 48), (1.25, 1.25, 1.25)
SMALL_SHAPE, SMALL_SPACING = (29, 23, 19), (3.1, 3.5, 3.2)


@pytest.fixture(scope="module")
def phantoms():
    drawn = [draw_phantom(np.random.default_rng([0, case])) for case in range(8)]
    return [render_phantom(parameters, shape=SHAPE, spacing=SPACING) for parameters in drawn]


def test_image_and_label_have_the_asked_shape_and_type(phantoms):
    for image, label in phantoms:
        assert image.shape == label.shape == SHAPE
        assert image.dtype == np.float32
        assert label.dtype == np.uint8
        assert np.isfinite(image).all()
        assert image.min() >= 0  # a magnitude image
        assert set(np.unique(label)) == {0, 1}


def test_atrium_fills_a_few_percent_in_one_piece(phantoms):
    for _, label in phantoms:
        _, pieces = ndimage.label(label, structure=np.ones((3, 3, 3)))
        assert pieces == 1
        assert 0.03 < label.mean() < 0.12


def best_threshold_dice(image, label):
    candidates = (image > level for level in np.percentile(image, np.arange(1, 100)))
    return max(2 * (mask & (label > 0)).sum() / (mask.sum() + label.sum()) for mask in candidates)


def test_no_threshold_segments_the_atrium(phantoms):
    scores = [best_threshold_dice(image, label) for image, label in phantoms]
    assert max(scores) < 0.6
    assert np.mean(scores) < 0.5


def test_atrium_is_brighter_than_lung_and_air_but_not_than_every_neighbour(phantoms):
    for image, label in phantoms:
        atrium = image[label > 0].mean()
        assert atrium > 2 * np.percentile(image, 5)
        smooth = ndimage.gaussian_filter(image, 1)[label == 0]
        assert (smooth > 0.95 * atrium).sum() > 0.2 * label.sum()


def test_cases_differ_in_shape_and_pose(phantoms):
    labels = [label for _, label in phantoms]
    for first, second in itertools.pairwise(labels):
        overlap = 2 * (first & second).sum() / (first.sum() + second.sum())
        assert overlap < 0.9
    contrasts = [image[label > 0].mean() for image, label in phantoms]
    assert max(contrasts) > 1.3 * min(contrasts)


def test_rendering_draws_nothing():
    parameters = draw_phantom(np.random.default_rng(7))
    first, second = (render_phantom(parameters, shape=SMALL_SHAPE, spacing=SMALL_SPACING) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_drawing_replays_from_the_seed_and_parameters_are_frozen():
    parameters = draw_phantom(np.random.default_rng(7))
    assert parameters == draw_phantom(np.random.default_rng(7))
    assert parameters != draw_phantom(np.random.default_rng(8))
    with pytest.raises(FrozenInstanceError):
        parameters.gain = 1.0


def test_foreground_share_does_not_depend_on_field_or_resolution():
    parameters = draw_phantom(np.random.default_rng(3))
    settings = [(SHAPE, SPACING), (SHAPE, (0.5, 0.5, 0.5)), ((36, 32, 24), (2.5, 2.5, 2.5)), ((72, 64, 12), (1, 1, 4))]
    shares = [render_phantom(parameters, shape=shape, spacing=spacing)[1].mean() for shape, spacing in settings]
    np.testing.assert_allclose(shares, shares[0], rtol=0.04)


def test_translation_moves_the_atrium_along_each_axis():
    still = replace(draw_phantom(np.random.default_rng(5)), rotation=(0, 0, 0), translation=(0, 0, 0), scale=1.0)
    moved = replace(still, translation=(2.5, -5.0, 3.75))  # 2, -4 and 3 voxels
    before, after = (render_phantom(parameters, shape=SHAPE, spacing=SPACING)[1] for parameters in (still, moved))
    np.testing.assert_array_equal(after[2:, :-4, 3:], before[:-2, 4:, :-3])


def grid(shape=(31, 37, 41)):
    axes = (np.arange(size, dtype=np.float32) - (size - 1) / 2 for size in shape)
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def test_ellipsoid_volume_is_that_of_geometry():
    inside = Ellipsoid((1, -2, 3), (6, 9, 12), angles=(0.4, -0.3, 1.1)).distance(grid()) < 0
    assert inside.sum() == pytest.approx(4 / 3 * np.pi * 6 * 9 * 12, rel=0.02)


def test_large_exponent_makes_a_box():
    inside = Ellipsoid((0, 0, 0), (5.5, 7.5, 9.5), exponent=60.0).distance(grid()) < 0
    assert inside.sum() == pytest.approx(11 * 15 * 19, rel=0.04)


def test_straight_tube_is_a_capsule_at_its_exact_distance():
    tube = Tube(((0, 0, -8), (0, 0, 0), (0, 0, 8)), (4, 4))
    distance = tube.distance(grid())
    middle = (15, 18, 20)
    assert distance[middle] == pytest.approx(-4)
    assert distance[15 + 7, 18, 20] == pytest.approx(3)
    assert distance[15, 18, 20 + 14] == pytest.approx(2)


def test_margin_and_blend_only_grow_a_structure():
    balls = (Ellipsoid((-4, 0, 0), (5, 5, 5)), Ellipsoid((4, 0, 0), (5, 5, 5)))
    union = Structure("balls", balls, 1.0).distance(grid())
    blended = Structure("balls", balls, 1.0, blend=3.0).distance(grid())
    grown = Structure("balls", balls, 1.0, margin=2.0).distance(grid())
    assert (blended <= union).all()
    assert blended[15, 18 + 5, 20] < union[15, 18 + 5, 20]
    np.testing.assert_allclose(grown, union - 2, atol=1e-6)


def test_grid_errors_name_the_value():
    parameters = draw_phantom(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"\(8, 8\)"):
        render_phantom(parameters, shape=(8, 8), spacing=SPACING)
    with pytest.raises(ValueError, match="spacing"):
        render_phantom(parameters, shape=SHAPE, spacing=(1, 0, 1))


def written(folder, **changes):
    sizes = {"labeled": 2, "unlabeled": 3, "validation": 1, "test": 1} | changes
    options = {"shape": SMALL_SHAPE, "spacing": SMALL_SPACING, "seed": 11} | sizes
    path = write_phantoms(folder, **options, progress=False)
    return json.loads(path.read_text())


def test_datalist_names_relative_files_and_unlabeled_cases_have_no_label(tmp_path):
    datalist = written(tmp_path)
    assert datalist["name"] == "phantoms"
    assert datalist["labels"] == {"0": "background", "1": "left atrium"}
    assert [len(datalist[part]) for part in ("training", "unlabeled", "validation", "test")] == [2, 3, 1, 1]
    assert datalist["training"][0] == {"image": "images/phantom_000.nii.gz", "label": "labels/phantom_000.nii.gz"}
    assert datalist["unlabeled"][0] == {"image": "images/phantom_002.nii.gz"}
    named = {
        file for part in ("training", "unlabeled", "validation", "test") for c in datalist[part] for file in c.values()
    }
    assert named == {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.nii.gz")}


def test_written_scans_carry_spacing_orientation_and_values(tmp_path):
    written(tmp_path)
    image, label = (nib.load(tmp_path / kind / "phantom_001.nii.gz") for kind in ("images", "labels"))
    np.testing.assert_allclose(image.affine, np.diag([*SMALL_SPACING, 1]), rtol=1e-6)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    parameters = draw_phantom(np.random.default_rng([11, 1]))
    expected, truth = render_phantom(parameters, shape=SMALL_SHAPE, spacing=SMALL_SPACING)
    np.testing.assert_allclose(image.get_fdata(), expected, atol=0.51)  # stored as whole numbers
    np.testing.assert_array_equal(np.asarray(label.dataobj), truth)
    assert label.get_data_dtype() == np.uint8


def test_same_seed_writes_the_same_bytes(tmp_path):
    for name in ("first", "second"):
        written(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*.*"))
    assert len(files) == 7 + 4 + 1
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_more_cases_leave_earlier_scans_alone_and_old_labels_go(tmp_path):
    written(tmp_path)
    before = (tmp_path / "images/phantom_001.nii.gz").read_bytes()
    written(tmp_path, labeled=1, unlabeled=5)
    assert (tmp_path / "images/phantom_001.nii.gz").read_bytes() == before
    assert not (tmp_path / "labels/phantom_001.nii.gz").exists()


def test_a_rerun_that_is_stopped_leaves_no_datalist_of_pairs_that_do_not_match(tmp_path, monkeypatch):
    written(tmp_path)
    save, saved = dataset._save, []

    def killed(path, *rest):
        if saved:
            raise KeyboardInterrupt
        saved.append(path)
        save(path, *rest)

    monkeypatch.setattr(dataset, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, seed=12)
    assert len(saved) == 1  # a label of the new seed beside an image of the old one
    assert not (tmp_path / "datalist.json").exists()
    monkeypatch.undo()
    assert len(written(tmp_path, seed=12)["training"]) == 2


def test_negative_number_of_cases_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unlabeled cases -1 must be a whole number"):
        written(tmp_path, unlabeled=-1)


def test_default_grid_is_the_reference_field():
    assert tuple(size * step for size, step in zip(SHAPE, SPACING, strict=True)) == REFERENCE_FIELD


@pytest.mark.parametrize("name", ["datalist.json", "images/patient.nii.gz", "labels/patient.nii"])
def test_files_of_others_are_never_replaced(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text('{"name": "mine"}')
    sizes = {"labeled": 1, "unlabeled": 0, "validation": 0, "test": 0}
    with pytest.raises(DataError, match=f"{name} is there and "):
        write_phantoms(tmp_path, shape=SMALL_SHAPE, spacing=SMALL_SPACING, progress=False, **sizes)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]
