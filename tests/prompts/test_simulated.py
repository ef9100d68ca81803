import numpy as np
import pytest
from scipy import ndimage

from aps_components.prompts import Click, deepest_error
from aps_components.prompts.simulated import any_error, inner_point, jittered_box, scribble_inside

SIZE = (17, 24, 40)


def empty():
    return np.zeros(SIZE, dtype=np.int64)


def blob(seed=0):
    """An irregular mask in one or more pieces."""
    noise = np.random.default_rng(seed).normal(size=SIZE)
    return ndimage.gaussian_filter(noise, 3) > 0.04


class TestDeepestError:
    def test_no_error_no_click(self):
        assert deepest_error(empty() + 2, empty() + 2) is None

    def test_middle_of_the_largest_piece_with_its_true_class(self):
        target = empty()
        target[2:7, 3:8, 10:15] = 2  # 125 voxels, 5 to a side: the middle is 3 deep
        target[10:13, 15:18, 30:33] = 1  # 27 voxels
        assert deepest_error(empty(), target) == Click(2, (4, 5, 12))
        assert deepest_error(target, empty()) == Click(0, (4, 5, 12))

    def test_a_large_thin_piece_comes_before_a_small_thick_one(self):
        target = empty()
        target[1, 2:22, 2:38] = 1  # 720 voxels, one thick
        target[8:13, 8:13, 8:13] = 1
        label, voxel = deepest_error(empty(), target)
        assert label == 1
        assert voxel[0] == 1

    def test_pieces_of_different_classes_are_different_errors(self):
        """Side by side they would be one piece of 4 x 5 x 5 voxels; the larger of the two is the left one."""
        target = empty()
        target[4:9, 4:9, 10:15], target[4:9, 4:9, 15:18] = 1, 2
        assert deepest_error(empty(), target) == Click(1, (6, 6, 12))

    def test_corners_that_touch_are_one_piece(self):
        target = empty()
        target[2:5, 2:5, 2:5], target[5:8, 5:8, 5:8] = 1, 1  # 54 voxels together
        target[12:15, 10:13, 20:25] = 2  # 45
        assert deepest_error(empty(), target).label == 1

    def test_of_pieces_of_one_size_one_is_taken(self):
        target = empty()
        target[2:5, 2:5, 2:5], target[10:13, 10:13, 30:33] = 1, 2
        assert deepest_error(empty(), target) in (Click(1, (3, 3, 3)), Click(2, (11, 11, 31)))

    def test_outside_the_volume_is_no_error(self):
        """A piece that ends at the volume's side is deepest in its middle, not at the side."""
        target = empty()
        target[:5, 5:10, 5:12] = 1
        label, voxel = deepest_error(empty(), target)
        assert label == 1
        assert voxel in [(2, 7, w) for w in (7, 8, 9)]
        depth, height, width = deepest_error(empty(), empty() + 3).voxel
        assert depth == 8
        assert 8 <= height < 16
        assert 8 <= width < 32

    def test_depth_goes_by_the_size_of_voxels(self):
        """A plate of one slice and a rod through nine; slices 10 mm apart make the plate the deeper of the two."""
        target = empty()
        target[8, 2:17, 2:17] = 1
        target[4:13, 2:5, 17:20] = 1
        assert deepest_error(empty(), target, spacing=(10, 1, 1)) == Click(1, (8, 9, 9))
        assert deepest_error(empty(), target).voxel[1:] == (3, 18)

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("spacing", [(1, 1, 1), (3.0, 0.7, 1.3)])
    def test_no_voxel_of_the_piece_is_deeper(self, seed, spacing):
        """Against the distances between voxels, by brute force."""
        target, prediction = blob(seed).astype(int), blob(seed + 10).astype(int)
        label, voxel = deepest_error(prediction, target, spacing=spacing)
        assert (target[voxel], prediction[voxel]) == (label, 1 - label)
        pieces = [ndimage.label((target == true) & (prediction != true), np.ones((3, 3, 3)))[0] for true in (0, 1)]
        piece = pieces[label] == pieces[label][voxel]
        assert piece.sum() == max(np.bincount(each.ravel())[1:].max() for each in pieces)
        outside = np.argwhere(~np.pad(piece, 1)) - 1

        def depth(place):
            return np.sqrt((((place - outside) * spacing) ** 2).sum(axis=-1)).min()

        assert depth(np.array(voxel)) >= max(depth(place) for place in np.argwhere(piece)[::5]) - 1e-9


def test_any_error_is_one_and_classes_are_alike(rng):
    target = empty()
    target[1, 1, 1] = 1
    target[3:13, 3:13, 3:33] = 2  # 3,000 voxels
    labels = []
    for _ in range(300):
        click = any_error(empty(), target, rng)
        assert target[click.voxel] == click.label
        labels.append(click.label)
    assert 100 < labels.count(1) < 200
    assert any_error(target, target, rng) is None


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("seed", range(3))
def test_inner_points_lie_inside_and_avoid_the_rim(seed, rng):
    mask = blob(seed)
    clicks = [inner_point(mask, rng, label=2) for _ in range(100)]
    assert all(mask[click.voxel] and click.label == 2 for click in clicks)
    depth = ndimage.distance_transform_edt(mask)
    assert np.mean([depth[click.voxel] for click in clicks]) > 1.2 * depth[mask].mean()


def test_the_only_voxel_is_the_inner_point(rng):
    mask = empty() > 0
    mask[16, 0, 39] = True
    assert inner_point(mask, rng, label=1) == Click(1, (16, 0, 39))


@pytest.mark.parametrize("jitter", [0.1, 0.3])
def test_sides_of_a_box_move_within_their_reach(rng, jitter):
    mask = empty() > 0
    mask[4:14, 10:15, 9:29] = True  # 10, 5 and 20 voxels long
    least, greatest = np.array([4, 10, 9]), np.array([13, 14, 28])
    reach = [max(1, round(jitter * length)) for length in (10, 5, 20)]
    boxes = [jittered_box(mask, rng, label=3, jitter=jitter) for _ in range(300)]
    assert all(box.label == 3 for box in boxes)
    moves = np.array([[box.least - least, box.greatest - greatest] for box in boxes])
    for side in (0, 1):
        assert moves[:, side].max(axis=0).tolist() == reach
        assert (-moves[:, side].min(axis=0)).tolist() == reach


def test_a_box_stays_in_the_volume_and_in_order(rng):
    mask = empty() > 0
    mask[0, 23, 0:40] = mask[0, 0, 5] = True
    for _ in range(100):
        box = jittered_box(mask, rng, label=1)
        assert (np.array(box.least) >= 0).all()
        assert np.all(np.array(box.least) <= box.greatest)
        assert (np.array(box.greatest) < SIZE).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_scribble_is_inside_and_in_one_slice(seed, rng):
    mask = blob(seed)
    lengths = []
    for _ in range(50):
        label, voxels = scribble_inside(mask, rng, label=2)
        voxels = np.array(voxels)
        assert label == 2
        assert mask[tuple(voxels.T)].all()
        assert any(len(np.unique(voxels[:, axis])) == 1 for axis in range(3))
        assert len(np.unique(voxels, axis=0)) == len(voxels)
        lengths.append(len(voxels))
    assert np.mean(lengths) > 5


def test_a_scribble_through_a_ball_is_one_line(rng):
    place = np.stack(np.meshgrid(*map(np.arange, SIZE), indexing="ij"), axis=-1)
    ball = ((place - (8, 12, 20)) ** 2).sum(axis=-1) < 49
    line = empty()
    line[tuple(np.array(scribble_inside(ball, rng, label=1).voxels).T)] = 1
    assert ndimage.label(line, structure=np.ones((3, 3, 3)))[1] == 1


def test_a_mask_of_one_voxel_is_a_scribble_of_one(rng):
    mask = empty() > 0
    mask[16, 5, 0] = True
    assert scribble_inside(mask, rng, label=1).voxels == [(16, 5, 0)]


def test_the_same_seed_draws_the_same():
    def draws(seed):
        rng, mask = np.random.default_rng(seed), blob()
        return [
            inner_point(mask, rng, label=1),
            jittered_box(mask, rng, label=1),
            scribble_inside(mask, rng, label=1),
            any_error(empty(), mask.astype(int), rng),
        ]

    assert draws(5) == draws(5)
    assert draws(5) != draws(6)
