import numpy as np
import pytest
from scipy import ndimage

from aps_components.prompts import AlteredTargets, exchanged_classes
from aps_components.prompts.altered_targets import cut_off, mixed_answers, shifted_border, with_ellipsoid

SIZE, CLASSES = (17, 24, 40), 4
CELL = (8, 8, 8)
SEEDS = range(12)
WAYS = ("other_answer", "shifted_border", "ellipsoid", "cut")


def anatomy(dtype=np.int64):
    """A large body of class 1 that holds one of class 2, and a small one of class 3."""
    place = np.stack(np.meshgrid(*map(np.arange, SIZE), indexing="ij"), axis=-1)
    target = np.zeros(SIZE, dtype=dtype)
    for label, middle, radius in ((1, (8, 12, 16), 8), (2, (8, 12, 16), 4), (3, (4, 4, 34), 3)):
        target[((place - middle) ** 2).sum(axis=-1) <= radius**2] = label
    return target


def other_answer():
    """The anatomy, two voxels farther along the last axis, and a piece of its own."""
    other = np.roll(anatomy(), 2, axis=-1)
    other[12:15, 18:22, 34:38] = 2
    return other


def only(way, **changes):
    return AlteredTargets(**{name: float(name == way) for name in WAYS} | changes)


def depth_from_borders(target, *, sampling=(1, 1, 1)):
    """Distance of each voxel to the nearest one of another class."""
    depth = np.zeros(target.shape)
    for label in np.unique(target):
        mask = target == label
        depth[mask] = ndimage.distance_transform_edt(mask, sampling=sampling)[mask]
    return depth


@pytest.mark.parametrize("way", WAYS)
class TestEveryWay:
    def test_it_alters_a_copy_and_says_how(self, way):
        target, changed = anatomy(np.uint8), 0
        kept = target.copy()
        for seed in SEEDS:
            rng = np.random.default_rng(seed)
            altered, done = only(way).draw(target, rng, num_classes=CLASSES, other=other_answer().astype(np.uint8))
            assert done == way
            assert altered.shape == SIZE
            assert altered.dtype == target.dtype
            assert set(np.unique(altered)) <= set(range(CLASSES))
            assert np.array_equal(target, kept)
            assert not np.shares_memory(altered, target)
            changed += (altered != target).any()
        assert changed >= len(SEEDS) / 2

    def test_most_stays_as_it_was(self, way):
        for seed in SEEDS:
            altered, _ = only(way).draw(
                anatomy(), np.random.default_rng(seed), num_classes=CLASSES, other=other_answer()
            )
            assert (altered != anatomy()).mean() < 0.3

    def test_the_same_seed_draws_the_same(self, way):
        def draw(seed):
            rng = np.random.default_rng(seed)
            return only(way).draw(anatomy(), rng, num_classes=CLASSES, other=other_answer())[0]

        assert np.array_equal(draw(3), draw(3))
        assert any(not np.array_equal(draw(3), draw(seed)) for seed in range(4, 10))

    @pytest.mark.parametrize("fill", [0, 2])
    def test_a_volume_of_one_class(self, way, fill):
        for seed in SEEDS:
            target = np.full(SIZE, fill)
            altered, _ = only(way).draw(target, np.random.default_rng(seed), num_classes=CLASSES, other=target.copy())
            assert (target == fill).all()
            assert set(np.unique(altered)) <= set(range(CLASSES))


def test_the_ways_come_as_often_as_they_weigh():
    rng, target = np.random.default_rng(0), anatomy()
    ways = AlteredTargets(other_answer=0.0, shifted_border=1.0, ellipsoid=0.0, cut=3.0)
    done = [ways.draw(target, rng, num_classes=CLASSES, other=other_answer())[1] for _ in range(100)]
    assert set(done) == {"shifted_border", "cut"}
    assert 60 <= done.count("cut") <= 90


def test_without_another_answer_none_is_mixed_in():
    rng = np.random.default_rng(0)
    done = {AlteredTargets().draw(anatomy(), rng, num_classes=CLASSES)[1] for _ in range(60)}
    assert done == {"shifted_border", "ellipsoid", "cut"}
    altered, done = only("other_answer").draw(anatomy(), rng, num_classes=CLASSES)
    assert done == "nothing"
    assert np.array_equal(altered, anatomy())


@pytest.mark.parametrize("seed", SEEDS)
def test_whole_pieces_are_of_one_answer(seed):
    target, other = anatomy(), other_answer()
    mixed = mixed_answers(target, other, np.random.default_rng(seed))
    pieces, count = ndimage.label(target != other, structure=np.ones((3, 3, 3)))
    assert count >= 3
    for piece in range(count + 1):
        where = pieces == piece
        assert (mixed[where] == target[where]).all() or (mixed[where] == other[where]).all()


def test_each_answer_is_taken_about_as_often():
    """The piece that the other answer has of its own."""
    taken = [
        mixed_answers(anatomy(), other_answer(), np.random.default_rng(seed))[13, 20, 36] == 2 for seed in range(60)
    ]
    assert 15 < sum(taken) < 45


@pytest.mark.parametrize("cell", [CELL, (8, 8, 2)])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_border_moves_by_three_and_a_half_voxels_at_most(seed, cell):
    """Along thick slices, a voxel is four of those in the plane."""
    target = anatomy()
    altered = shifted_border(target, np.random.default_rng(seed), num_classes=CLASSES, cell=cell)
    changed = altered != target
    near = depth_from_borders(target, sampling=[8 / step for step in cell]) <= 3.5 + 1e-6
    # What an outer class loses to a class inside it is no farther from that class's border.
    assert not (changed & ~near).any()


@pytest.mark.parametrize("seed", range(40))
def test_a_border_moves_towards_the_classes_beside_it(seed):
    """One class grows over others, or gives way to them: none appears that was not near."""
    target = anatomy()
    altered = shifted_border(target, np.random.default_rng(seed), num_classes=CLASSES, cell=CELL)
    changed = altered != target
    if not changed.any():
        return
    gained, lost = np.unique(altered[changed]), np.unique(target[changed])
    assert len(gained) == 1 or len(lost) == 1
    for label in gained:
        beside = ndimage.distance_transform_edt(target != label) <= 7
        assert beside[changed & (altered == label)].all()


@pytest.mark.parametrize("seed", SEEDS)
def test_an_ellipsoid_is_about_the_size_of_a_token(seed):
    target = anatomy()
    altered = with_ellipsoid(target, np.random.default_rng(seed), num_classes=CLASSES, cell=CELL)
    changed = np.argwhere(altered != target)
    if len(changed):
        extent = changed.max(axis=0) - changed.min(axis=0) + 1
        assert (extent <= 2 * 1.2 * 8 + 1).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_class_ends_at_a_plane(seed):
    target = anatomy()
    altered = cut_off(target, np.random.default_rng(seed))
    changed = altered != target
    (label,) = np.unique(target[changed]) if changed.any() else (1,)
    assert label != 0
    assert (altered[changed] == 0).all()
    gone, left = np.argwhere(changed), np.argwhere((target == label) & ~changed)
    assert len(left)
    if len(gone):
        assert _can_be_parted(gone, left)


def _can_be_parted(gone, left):
    """Whether a plane lies between two sets of points, by linear programming."""
    from scipy.optimize import linprog

    signs = np.concatenate([-np.ones(len(gone)), np.ones(len(left))])
    points = np.concatenate([gone, left]).astype(float)
    rows = signs[:, None] * np.column_stack([points, np.ones(len(points))])
    return linprog(np.zeros(4), A_ub=rows, b_ub=-1e-6 * np.ones(len(rows)), bounds=[(None, None)] * 4).status == 0


def test_nothing_is_cut_off_where_nothing_is():
    target = np.zeros(SIZE, dtype=np.int64)
    altered = cut_off(target, np.random.default_rng(0))
    assert np.array_equal(altered, target)
    assert altered is not target


@pytest.mark.parametrize("classes", [2, 3, 4, 16])
def test_exchanged_classes_are_a_permutation_that_leaves_none(classes):
    seen = set()
    target = np.random.default_rng(1).integers(classes, size=SIZE)
    kept = target.copy()
    for seed in range(30):
        altered = exchanged_classes(target, np.random.default_rng(seed), num_classes=classes)
        table = tuple(int(np.unique(altered[target == label]).item()) for label in range(classes))
        assert sorted(table) == list(range(classes))
        assert all(new != old for old, new in enumerate(table))
        seen.add(table)
    assert np.array_equal(target, kept)
    assert len(seen) > 1 or classes == 2
