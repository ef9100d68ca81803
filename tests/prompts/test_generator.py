import math

import pytest
import torch
from torch.nn import functional as F

from aps_components.prompts import (
    PAD_LABEL,
    PromptGenerator,
    local_maxima,
    normalise_per_case,
    window_maximum,
)
from aps_components.prompts.generator import _scrambled_index

SIZE = (17, 24, 40)  # odd, even, and none alike


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def smooth_probabilities(batch=2, classes=3, size=SIZE, sharpness=20.0):
    noise = F.avg_pool3d(torch.randn(batch, classes, *size), 5, stride=1, padding=2)
    return (sharpness * noise).softmax(dim=1)


def uncertainties(batch=2, size=SIZE):
    return {name: torch.rand(batch, 1, *size) for name in ("epistemic", "aleatoric")}


def certain(batch=1, size=SIZE):
    return {name: torch.zeros(batch, 1, *size) for name in ("epistemic", "aleatoric")}


def chebyshev(points):
    return (points[:, None] - points[None]).abs().amax(dim=-1)


class TestWindowMaximum:
    @pytest.mark.parametrize("size", [SIZE, (1, 2, 3), (40, 5, 16)])
    @pytest.mark.parametrize("radius", [0, 1, 2, 3, 5, 7, 8])
    def test_is_max_pooling(self, size, radius):
        volume = torch.randn(2, 3, *size)
        expected = volume
        for axis in range(3):  # axis by axis, since max_pool3d wants padding of at most half a kernel only
            kernel, padding = [1, 1, 1], [0, 0, 0]
            kernel[axis], padding[axis] = 2 * radius + 1, radius
            expected = F.max_pool3d(expected, kernel, stride=1, padding=padding)
        assert torch.equal(window_maximum(volume, radius=radius), expected)

    def test_is_one_cubic_max_pooling(self):
        volume = torch.randn(1, 2, *SIZE)
        assert torch.equal(window_maximum(volume, radius=3), F.max_pool3d(volume, kernel_size=7, stride=1, padding=3))

    def test_negative_values_are_not_beaten_by_the_padding(self):
        assert window_maximum(torch.full((1, 1, 3, 4, 5), -9.0), radius=2).max() == -9


class TestLocalMaxima:
    @pytest.mark.parametrize("radius", [1, 2, 4, 7])
    def test_no_two_lie_within_the_radius(self, radius):
        scores = (torch.rand(2, 3, *SIZE) * 50).round() / 50  # many equal values
        peaks = local_maxima(scores, radius=radius)
        for item in peaks.flatten(0, 1):
            points = item.nonzero()
            assert len(points) >= 1
            apart = chebyshev(points) + 1000 * torch.eye(len(points), dtype=torch.int64)
            assert apart.min() > radius

    def test_none_has_a_higher_neighbour_and_the_best_is_in(self):
        scores = torch.rand(2, 3, *SIZE)
        peaks = local_maxima(scores, radius=3)
        # no ties here: the peaks are the pooling's fixed points exactly
        assert torch.equal(peaks, scores == F.max_pool3d(scores, kernel_size=7, stride=1, padding=3))
        assert torch.equal((scores * peaks).amax((2, 3, 4)), scores.amax((2, 3, 4)))

    @pytest.mark.parametrize("radius", [1, 3, 7])
    def test_plateau_keeps_spread_points(self, radius):
        peaks = local_maxima(torch.full((1, 2, *SIZE), 0.7), radius=radius)
        assert torch.equal(peaks[0, 0], peaks[0, 1])
        points = peaks[0, 0].nonzero()
        apart = chebyshev(points) + 1000 * torch.eye(len(points), dtype=torch.int64)
        assert apart.min() > radius
        assert len(points) >= max(2, math.prod(SIZE) // (4 * radius + 1) ** 3)
        halves = points[:, 2] < SIZE[2] // 2
        assert halves.any()  # not all in one end
        assert not halves.all()

    def test_small_plateau_keeps_at_least_one(self):
        scores = torch.zeros(1, 1, *SIZE)
        scores[0, 0, 3:6, 10:13, 20:22] = 0.4
        points = local_maxima(scores, radius=2)[0, 0].nonzero()
        assert len(points) == 1  # the plateau is no wider than the window
        assert (scores[0, 0][tuple(points[0])] == 0.4).all()

    def test_two_apart_stay_and_two_near_do_not(self):
        scores = torch.zeros(1, 1, *SIZE)
        scores[0, 0, 5, 6, 7] = 0.9
        scores[0, 0, 5, 6, 10] = 0.8
        assert local_maxima(scores, radius=2).sum() == 2
        assert local_maxima(scores, radius=3).nonzero().tolist() == [[0, 0, 5, 6, 7]]
        scores[0, 0, 8, 9, 7] = 0.5  # a diagonal neighbour: Chebyshev distance 3 from the best
        assert local_maxima(scores, radius=2).sum() == 3
        assert local_maxima(scores, radius=3).sum() == 1

    def test_zeros_are_none(self):
        assert not local_maxima(torch.zeros(2, 3, *SIZE), radius=2).any()

    def test_ties_are_broken_by_an_exact_permutation(self):
        order = _scrambled_index(torch.zeros(1, 1, 64, 128, 256)).flatten().tolist()
        assert len(set(order)) == 2**21
        assert [order[i] for i in (0, 1, 2**21 - 1)] == [(i * 10_368_889 + 7) % 2**24 for i in (0, 1, 2**21 - 1)]


class TestSuitability:
    def test_by_hand_on_a_tiny_volume(self):
        epistemic = torch.tensor([2.0, 4.0, 6.0, 3.0]).view(1, 1, 1, 2, 2)  # normalised 0, .5, 1, .25
        aleatoric = torch.tensor([0.5, 0.1, 0.1, 0.3]).view(1, 1, 1, 2, 2)  # normalised 1, 0, 0, .5
        generator = PromptGenerator(epistemic_weight=0.5, aleatoric_weight=0.5)
        expected = torch.tensor([0.5, 0.75, 0.5, 0.625]).view(1, 1, 1, 2, 2)
        torch.testing.assert_close(generator.suitability(epistemic, aleatoric), expected)
        generator = PromptGenerator(epistemic_weight=0.8, aleatoric_weight=0.2)
        expected = torch.tensor([0.8, 0.6, 0.2, 0.7]).view(1, 1, 1, 2, 2)
        torch.testing.assert_close(generator.suitability(epistemic, aleatoric), expected)

    def test_scores_by_hand(self):
        # one class, radius 0: every voxel above the least probability is a peak, ordered by PSS * p
        probability = torch.tensor([0.9, 0.8, 0.4, 0.6]).view(1, 1, 1, 2, 2)
        generator = PromptGenerator(points_per_class=4, radius=0, min_probability=0.5)
        prompts = generator(
            torch.cat([probability, 1 - probability], dim=1),
            epistemic=torch.tensor([2.0, 4.0, 6.0, 3.0]).view(1, 1, 1, 2, 2),
            aleatoric=torch.tensor([0.5, 0.1, 0.1, 0.3]).view(1, 1, 1, 2, 2),
        )
        # PSS .5 .75 .5 .625 times p: .45 .6 (.2) .375; class 1 only has p = .6 at the third voxel: .3
        torch.testing.assert_close(prompts.scores, torch.tensor([[0.6, 0.45, 0.375, 0, 0.3, 0, 0, 0]]))
        assert prompts.point_labels.tolist() == [[0, 0, 0, -1, 1, -1, -1, -1]]
        assert prompts.point_coords[0, [0, 1, 2, 4]].tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 1], [0, 1, 0]]

    def test_cases_are_normalised_apart(self):
        uncertainty = torch.tensor([[0.0, 1.0, 2.0], [10.0, 50.0, 30.0]]).view(2, 1, 1, 1, 3)
        expected = torch.tensor([[0.0, 0.5, 1.0], [0.0, 1.0, 0.5]]).view(2, 1, 1, 1, 3)
        torch.testing.assert_close(normalise_per_case(uncertainty), expected)

    @pytest.mark.parametrize("value", [0.0, 3.0, 1e-30])
    def test_constant_map_is_no_uncertainty(self, value):
        assert torch.equal(normalise_per_case(torch.full((2, 1, *SIZE), value)), torch.zeros(2, 1, *SIZE))

    def test_uncertain_places_are_avoided(self):
        probabilities = torch.full((1, 2, *SIZE), 0.5)
        maps = certain()
        maps["epistemic"][..., :20] = 1.0  # the left half is unsure
        prompts = PromptGenerator(points_per_class=2, radius=7, min_probability=0.5)(probabilities, **maps)
        assert (prompts.point_labels >= 0).all()
        assert (prompts.point_coords[..., 2] >= 20).all()


class TestPromptGenerator:
    def test_coordinates_are_depth_height_width(self):
        probabilities = torch.zeros(2, 3, *SIZE)
        places = {(0, 0): (1, 23, 39), (0, 1): (16, 2, 30), (0, 2): (0, 0, 0), (1, 0): (5, 7, 11), (1, 2): (16, 23, 0)}
        for (case, label), place in places.items():
            probabilities[(case, label, *place)] = 0.9
        prompts = PromptGenerator(points_per_class=1, radius=3)(probabilities, **certain(2))
        assert prompts.point_coords.shape == (2, 3, 3)
        assert prompts.point_labels.tolist() == [[0, 1, 2], [0, PAD_LABEL, 2]]
        for (case, label), place in places.items():
            assert prompts.point_coords[case, label].tolist() == list(place)
        torch.testing.assert_close(prompts.scores, torch.tensor([[0.9, 0.9, 0.9], [0.9, 0.0, 0.9]]))

    def test_points_from_strided_maps_are_in_voxels_of_the_volume(self):
        probabilities = torch.zeros(1, 2, *SIZE)
        probabilities[0, 0, 3, 5, 7] = 0.9
        probabilities[0, 1, 16, 23, 39] = 0.9
        prompts = PromptGenerator(points_per_class=1, radius=3)(probabilities, **certain(), stride=3)
        assert prompts.point_coords.tolist() == [[[9, 15, 21], [48, 69, 117]]]

    def test_in_thick_slices_each_axis_has_its_own_radius_and_step(self):
        """Radii of 2, 1 and 1 voxels of the maps: along each axis, one that lies so near to the best point is none."""
        probabilities = torch.zeros(1, 1, *SIZE)
        for place, value in {(1, 2, 3): 0.99, (1, 4, 3): 0.98, (1, 2, 5): 0.97}.items():
            probabilities[(0, 0, *place)] = value
        for near in ((3, 2, 3), (1, 3, 3), (1, 2, 4)):
            probabilities[(0, 0, *near)] = 0.96
        generator = PromptGenerator(points_per_class=4, radius=(4, 1, 3))
        prompts = generator(probabilities, **certain(), stride=(2, 1, 3))
        assert prompts.point_labels.tolist() == [[0, 0, 0, PAD_LABEL]]
        assert prompts.point_coords.tolist() == [[[2, 2, 9], [2, 4, 9], [2, 2, 15], [0, 0, 0]]]

    @pytest.mark.parametrize(("radius", "stride"), [(7, 2), (4, 2), (3, 4)])
    def test_strided_points_keep_the_radius_in_voxels(self, radius, stride):
        generator = PromptGenerator(points_per_class=40, radius=radius, min_probability=0.0)
        prompts = generator(torch.rand(1, 1, *SIZE), **certain(), stride=stride)
        points = prompts.point_coords[0][prompts.point_labels[0] >= 0]
        assert len(points) > 5
        nearest = (chebyshev(points) + 1000 * torch.eye(len(points))).min()
        assert radius < nearest <= radius + 2 * stride

    def test_best_come_first_and_are_the_best_peaks(self):
        probabilities, maps = smooth_probabilities(), uncertainties()
        generator = PromptGenerator(points_per_class=6, radius=2, min_probability=0.5)
        prompts = generator(probabilities, **maps)
        scores = generator.suitability(**maps) * probabilities * (probabilities >= 0.5)
        peaks = scores * (scores == F.max_pool3d(scores, kernel_size=5, stride=1, padding=2))
        expected = peaks.flatten(2).sort(dim=2, descending=True).values[..., :6]
        torch.testing.assert_close(prompts.scores.view(2, 3, 6), expected)
        d, h, w = prompts.point_coords.long().unbind(-1)
        for case in range(2):
            for slot in range(18):
                place = (d[case, slot], h[case, slot], w[case, slot])
                assert prompts.point_labels[case, slot] == slot // 6
                assert scores[(case, slot // 6, *place)] == prompts.scores[case, slot]

    def test_class_that_is_not_there_gets_no_made_up_point(self):
        probabilities = smooth_probabilities(classes=3)
        probabilities[:, 1] = 0.89
        prompts = PromptGenerator(points_per_class=4, radius=2)(probabilities, **uncertainties())
        assert (prompts.point_labels[:, 4:8] == PAD_LABEL).all()
        assert (prompts.point_coords[:, 4:8] == 0).all()
        assert (prompts.scores[:, 4:8] == 0).all()
        assert (prompts.point_labels[:, :4] == 0).all()

    def test_fewer_peaks_than_slots_are_padded(self):
        probabilities = torch.zeros(1, 1, *SIZE)
        probabilities[0, 0, 4, 5, 6] = 0.95
        prompts = PromptGenerator(points_per_class=3, radius=2)(probabilities, **certain())
        assert prompts.point_labels.tolist() == [[0, PAD_LABEL, PAD_LABEL]]
        assert prompts.point_coords.tolist() == [[[4, 5, 6], [0, 0, 0], [0, 0, 0]]]

    def test_more_slots_than_voxels(self):
        prompts = PromptGenerator(points_per_class=20, radius=0, min_probability=0.5)(
            torch.full((1, 2, 1, 2, 3), 0.5), **certain(1, (1, 2, 3))
        )
        assert (prompts.point_labels >= 0).sum() == 12

    def test_least_probability_is_a_candidate_itself(self):
        probabilities = torch.full((1, 1, *SIZE), 0.3)
        assert PromptGenerator(min_probability=0.3)(probabilities, **certain()).point_labels.max() == 0
        assert PromptGenerator(min_probability=0.31)(probabilities, **certain()).point_labels.max() == PAD_LABEL

    @pytest.mark.parametrize("strategy", ["suitability", "random"])
    def test_two_cases_are_two_batches_of_one(self, strategy):
        probabilities, maps = smooth_probabilities(), uncertainties()
        generator = PromptGenerator(points_per_class=5, radius=3, strategy=strategy)
        together = generator(probabilities, **maps)
        for case in range(2):
            one = slice(case, case + 1)
            alone = generator(probabilities[one], **{name: value[one] for name, value in maps.items()})
            for mine, other in zip(together, alone, strict=True):
                assert torch.equal(mine[one], other)

    @pytest.mark.parametrize("strategy", ["suitability", "random"])
    def test_repeats_itself_and_leaves_its_input(self, strategy):
        probabilities, maps = smooth_probabilities(), uncertainties()
        before = probabilities.clone()
        generator = PromptGenerator(points_per_class=5, radius=3, strategy=strategy)
        first, second = (generator(probabilities, **maps) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert torch.equal(probabilities, before)

    def test_sixteen_classes_at_once(self):
        size = (16, 40, 24)
        owner = torch.randint(0, 16, (2, 1, 2, 5, 3))
        label = owner.repeat_interleave(8, 2).repeat_interleave(8, 3).repeat_interleave(8, 4)
        probabilities = torch.zeros(2, 16, *size).scatter_(1, label, 0.95)
        prompts = PromptGenerator(points_per_class=3, radius=4)(probabilities, **certain(2, size))
        assert prompts.point_coords.shape == (2, 48, 3)
        for case in range(2):
            present = set(label[case].unique().tolist())
            assert set(prompts.point_labels[case].tolist()) - {PAD_LABEL} == present
        real = prompts.point_labels != PAD_LABEL
        d, h, w = prompts.point_coords[real].long().unbind(-1)
        case = torch.arange(2)[:, None].expand_as(real)[real]
        assert torch.equal(label[case, 0, d, h, w], prompts.point_labels[real])

    def test_points_of_a_class_are_apart(self):
        prompts = PromptGenerator(points_per_class=8, radius=4)(smooth_probabilities(), **certain(2))
        for case in range(2):
            for label in range(3):
                points = prompts.point_coords[case][prompts.point_labels[case] == label]
                assert len(points) > 1
                assert (chebyshev(points) + 1000 * torch.eye(len(points))).min() > 4

    def test_no_points_wanted(self):
        prompts = PromptGenerator(points_per_class=0)(smooth_probabilities(), **uncertainties())
        assert prompts.point_coords.shape == (2, 0, 3)
        assert prompts.point_labels.shape == prompts.scores.shape == (2, 0)

    def test_carries_no_gradient(self):
        probabilities = smooth_probabilities().requires_grad_()
        assert not any(part.requires_grad for part in PromptGenerator()(probabilities, **uncertainties()))

    def test_random_strategy_only_picks_candidates(self):
        probabilities, maps = smooth_probabilities(), uncertainties()
        prompts = PromptGenerator(points_per_class=10, radius=2, strategy="random")(probabilities, **maps)
        other = PromptGenerator(points_per_class=10, radius=2, strategy="random", seed=1)(probabilities, **maps)
        assert not torch.equal(prompts.point_coords, other.point_coords)
        d, h, w = prompts.point_coords.long().unbind(-1)
        real = prompts.point_labels != PAD_LABEL
        assert real.sum() > 20
        case = torch.arange(2)[:, None].expand_as(d)
        chosen = probabilities[case[real], prompts.point_labels[real], d[real], h[real], w[real]]
        assert (chosen >= 0.9).all()  # the generator's least probability
        best = PromptGenerator(points_per_class=10, radius=2)(probabilities, **maps)
        assert not torch.equal(prompts.point_coords, best.point_coords)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"points_per_class": -1}, "points_per_class -1"),
            ({"radius": -2}, "radius -2"),
            ({"epistemic_weight": -0.5}, r"weights \(-0.5, 0.5\)"),
            ({"strategy": "grid"}, "strategy 'grid' must be"),
        ],
    )
    def test_value_that_does_not_fit_is_refused(self, settings, message):
        with pytest.raises(ValueError, match=message):
            PromptGenerator(**settings)
