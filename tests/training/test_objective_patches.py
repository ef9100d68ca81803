"""What a batch becomes before the student sees it: patches, pseudo-labels and the teacher's view."""

import math

import pytest
import torch
from students import PERSON, TEACHER, C, D, Forward, H, W, make_batch, no_teacher, teacher

from aps_components.training import build_objective
from aps_components.uncertainty import MonteCarloSamples


def cases_of(image):
    """The one value that the patch of each side has: the positive and the negative one."""
    return [(int(patch[patch > 0].unique()), int(patch[patch < 0].unique())) for patch in image]


class TestPatches:
    @pytest.mark.parametrize("iteration", [0, 2])
    def test_warm_up_gives_the_labelled_patches_only(self, iteration):
        batch = make_batch()
        objective = build_objective(warmup_iterations=3)
        patches = objective.patches(batch, teacher=no_teacher, iteration=iteration)
        assert torch.equal(patches.image, batch["labeled"]["image"])
        assert torch.equal(patches.label, batch["labeled"]["label"].long())
        assert patches.labeled.all()
        assert patches.all_labeled

    def test_unlabelled_patches_come_in_right_after_the_warm_up(self):
        patches = build_objective(warmup_iterations=3).patches(make_batch(), teacher=teacher, iteration=3)
        assert not patches.labeled.all()
        assert not patches.all_labeled

    @pytest.mark.parametrize("changes", [{"train_b": False}, {}, {"teacher_weight": 1.0}])
    def test_labelled_batches_leave_the_teacher_out(self, changes):
        batch = make_batch(unlabeled=0)
        patches = build_objective(**changes).patches(batch, teacher=no_teacher, iteration=9)
        assert torch.equal(patches.image, batch["labeled"]["image"])
        assert patches.labeled.all()
        assert patches.all_labeled

    @pytest.mark.parametrize("seed", range(3))
    def test_copy_paste_takes_image_label_and_owner_from_the_same_side(self, seed):
        torch.manual_seed(seed)
        patches = build_objective().patches(make_batch(), teacher=teacher, iteration=0)
        assert patches.image.shape == patches.label.shape == patches.labeled.shape == (4, 1, D, H, W)
        assert patches.label.dtype == torch.int64
        assert torch.equal(patches.labeled, patches.image > 0)
        assert torch.equal(patches.label, torch.where(patches.labeled, PERSON, TEACHER))
        assert cases_of(patches.image) == [(1, -1), (2, -2)] * 2

    def test_the_same_box_is_pasted_both_ways(self):
        patches = build_objective(copy_paste_share=0.5).patches(make_batch(), teacher=teacher, iteration=0)
        person_in_box, person_around_box = patches.labeled.chunk(2)
        assert torch.equal(person_in_box, ~person_around_box)
        inside = person_in_box[0, 0].nonzero()
        extent = inside.amax(dim=0) - inside.amin(dim=0) + 1
        assert extent.tolist() == [round(0.5 * size) for size in (D, H, W)]
        assert len(inside) == extent.prod()

    @pytest.mark.parametrize(
        ("labeled", "unlabeled", "pairs"),
        [(3, 2, [(1, -1), (2, -2), (3, -1)]), (1, 3, [(1, -1), (1, -2), (1, -3)])],
    )
    def test_the_smaller_stream_serves_again(self, labeled, unlabeled, pairs):
        patches = build_objective().patches(make_batch(labeled, unlabeled), teacher=teacher, iteration=0)
        assert cases_of(patches.image) == pairs * 2

    def test_without_copy_paste_they_stand_side_by_side(self):
        batch = make_batch(3, 2)
        patches = build_objective(copy_paste=False).patches(batch, teacher=teacher, iteration=0)
        assert torch.equal(patches.image, torch.cat([batch["labeled"]["image"], batch["unlabeled"]["image"]]))
        assert not patches.all_labeled
        assert patches.labeled.flatten(1).all(dim=1).tolist() == [True, True, True, False, False]
        assert not patches.labeled[3:].any()
        assert torch.equal(patches.label, torch.where(patches.labeled, PERSON, TEACHER))

    @pytest.mark.parametrize("copy_paste", [True, False])
    def test_teacher_is_not_asked_where_its_labels_weigh_nothing(self, copy_paste):
        objective = build_objective(pseudo_label_weight=0.0, copy_paste=copy_paste)
        patches = objective.patches(make_batch(), teacher=no_teacher, iteration=0)
        assert torch.equal(patches.labeled, patches.image > 0)
        assert (patches.label[patches.labeled] == PERSON).all()

    def test_pseudo_labels_keep_the_largest_component(self):
        def two_islands(image):
            logits = torch.zeros(image.shape[0], C, *image.shape[2:])
            logits[:, TEACHER, 0, 0, 0], logits[:, TEACHER, 3:, 3:, 3:] = 1.0, 1.0
            return logits

        for largest_component in (True, False):
            objective = build_objective(copy_paste=False, largest_component=largest_component)
            patches = objective.patches(make_batch(), teacher=two_islands, iteration=0)
            assert (patches.label[2:, 0, 3:, 3:, 3:] == TEACHER).all()
            assert (patches.label[2:, 0, 0, 0, 0] == (0 if largest_component else TEACHER)).all()


class TestTeacherConsistency:
    def test_the_student_is_compared_with_the_teacher_on_unlabelled_patches_alone(self):
        seen = []

        def noisy_teacher(image):
            seen.append(image)
            return teacher(image)

        objective = build_objective(
            copy_paste=False, pseudo_label_weight=0.0, teacher_weight=0.7, teacher_noise=0.1, train_b=False
        )
        batch = make_batch(2, 2)
        patches = objective.patches(batch, teacher=noisy_teacher, iteration=0)
        (view,) = seen
        noise = view - batch["unlabeled"]["image"]
        assert 0.15 < noise.abs().max() < 0.2 + 1e-6
        assert noise.std() == pytest.approx(0.1, rel=0.15)
        forward = Forward()
        terms = objective(forward, patches, iteration=0)
        difference = forward.logits_a[2:].softmax(1) - teacher(view).softmax(1)
        torch.testing.assert_close(terms["teacher_a"], 0.7 * difference.square().mean())
        assert "teacher_b" not in terms
        terms["teacher_a"].backward()
        assert not forward.logits_a.grad[:2].any()

    @pytest.mark.parametrize(("iteration", "share"), [(0, 0.75 + 0.25 * math.exp(-5)), (10, 1.0)])
    def test_the_teacher_is_believed_below_an_entropy_that_rises_with_the_ramp_up(self, iteration, share):
        """Half of each patch is certain, the other half has an entropy just above or below the threshold."""
        for offset, counts in ((-0.02, True), (0.02, False)):
            threshold = (share + offset) * math.log(C)
            if threshold > math.log(C):
                continue
            objective = build_objective(
                copy_paste=False, pseudo_label_weight=0.0, teacher_weight=1.0, teacher_samples=3, rampup_iterations=10
            )
            certain = objective.patches(
                make_batch(), teacher=HalfCertain(threshold), iteration=iteration
            ).target.certain
            assert certain[:, :, :2].all()
            assert certain[:, :, 2:].all() == counts
            assert certain[:, :, 2:].any() == counts

    def test_negative_settings_are_refused(self):
        with pytest.raises(ValueError, match="noise -1"):
            build_objective(teacher_noise=-1)


class HalfCertain:
    """A teacher that is certain of the first two slices; elsewhere the entropy is as given, in nats."""

    def __init__(self, nats):
        self.likely = _likely_with_entropy(nats)

    def monte_carlo(self, image, *, samples):
        probabilities = torch.full((image.shape[0], C, D, H, W), (1 - self.likely) / (C - 1))
        probabilities[:, 0] = self.likely
        probabilities[:, :, :2] = torch.tensor([1.0, 0.0, 0.0]).view(1, C, 1, 1, 1)
        variance = torch.zeros(samples, image.shape[0], 1, D, H, W)
        return MonteCarloSamples(probabilities.expand(samples, -1, -1, -1, -1, -1), variance)


def _likely_with_entropy(nats):
    """The probability of the likeliest of C classes, the others being equal, at which the entropy is so high."""
    low, high = 1 / C, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        rest = (1 - middle) / (C - 1)
        value = -middle * math.log(middle) - (C - 1) * rest * math.log(rest)
        low, high = (middle, high) if value > nats else (low, middle)
    return low
