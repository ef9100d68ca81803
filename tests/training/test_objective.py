import math

import pytest
import torch

from aps_components.losses import HeteroscedasticCrossEntropy, iou_loss, sigmoid_rampup, softmax_mse
from aps_components.losses.supervised import DiceCrossEntropy
from aps_components.models import Round, TrainingOutput
from aps_components.prompts import AlteredTargets, SimulatedUser
from aps_components.training import TrainingPatches, build_objective
from aps_components.training.objective import deep_shares
from aps_components.training.patches import at_size
from aps_components.uncertainty import MonteCarloSamples

C, D, H, W = 3, 5, 7, 11  # sizes that cannot be confused
PERSON, TEACHER = 1, 2  # the class that each of the two gives to every voxel


def make_batch(labeled=2, unlabeled=2):
    """Labelled patch i is filled with i + 1, unlabelled patch j with -(j + 1); a person labelled everything 1."""

    def images(numbers):
        return torch.stack([torch.full((1, D, H, W), float(number)) for number in numbers])

    batch = {
        "labeled": {
            "image": images(range(1, labeled + 1)),
            "label": torch.full((labeled, 1, D, H, W), PERSON, dtype=torch.uint8),
        }
    }
    if unlabeled:
        batch["unlabeled"] = {"image": images(range(-1, -unlabeled - 1, -1))}
    return batch


def teacher(image):
    """Sees class 2 everywhere."""
    logits = torch.zeros(image.shape[0], C, *image.shape[2:])
    logits[:, TEACHER] = 1.0
    return logits


def no_teacher(_image):
    pytest.fail("the teacher was asked")


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


class Forward:
    """Stands for the student; its outputs are leaves, so that each one's gradient can be read."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)

        def leaf(*size, positive=False):
            values = torch.randn(4, *size, generator=generator)
            return (values.sigmoid() if positive else values).requires_grad_()

        self.logits_a, self.logits_b = leaf(C, D, H, W), leaf(C, D, H, W)
        self.variance, self.iou_predictions = leaf(1, D, H, W, positive=True), leaf(C, positive=True)

    def __call__(self, image, *, with_a, with_b, label, user):
        assert image.shape == (4, 1, D, H, W)
        self.asked = {"with_a": with_a, "with_b": with_b, "label": label, "user": user}
        output = self.output(self.rounds(label) if user else ())
        return output if with_b else output._replace(logits_b=None, iou_predictions=None)

    def output(self, rounds):
        of_models = self.logits_a, self.variance, self.logits_b, self.iou_predictions
        return TrainingOutput(*of_models, None, None, rounds=tuple(rounds))

    def rounds(self, label):
        """The automatic answer, and two corrected ones of patches 3 and 1.

        Classes are exchanged in patch 3; the target of patch 1 is altered before the corrections.
        """
        generator = torch.Generator().manual_seed(2)
        target = label.clone()
        target[3] = (target[3] + 1) % C
        altered = torch.stack([target[3], (label[1] + 2) % C])
        exchanged, nowhere = torch.tensor([False, False, False, True]), torch.zeros(4, 1, D, H, W)
        automatic = torch.arange(4), self.logits_b, self.iou_predictions, target, exchanged
        rounds = [Round(*automatic, nowhere, nowhere > 0)]
        for _ in range(2):
            logits = torch.randn(2, C, D, H, W, generator=generator).requires_grad_()
            nearness = (torch.rand(2, 1, D, H, W, generator=generator) - 0.5).clamp_min(0)
            within = (nearness > 0) | (torch.rand(2, 1, D, H, W, generator=generator) > 0.7)
            rows = torch.tensor([3, 1])
            iou_predictions, changed = self.iou_predictions[rows], torch.tensor([True, True])
            rounds.append(Round(rows, logits, iou_predictions, altered, changed, nearness, within))
        return tuple(rounds)


@pytest.fixture
def patches():
    generator = torch.Generator().manual_seed(1)
    return TrainingPatches(
        image=torch.zeros(4, 1, D, H, W),
        label=torch.randint(C, (4, 1, D, H, W), generator=generator),
        labeled=torch.rand(4, 1, D, H, W, generator=generator) > 0.3,
        all_labeled=False,
    )


@pytest.fixture
def labelled_patches(patches):
    return patches._replace(labeled=torch.ones_like(patches.labeled), all_labeled=True)


ALL_TERMS = {
    "supervised_a",
    "heteroscedastic",
    "supervised_b",
    "iou",
    "pseudo_label_a",
    "pseudo_label_b",
    "consistency",
    "loss",
}


class TestDeepSupervision:
    """Levels of half and of a third of the size: 1, 1/2 and 1/4, of a sum of 1."""

    @pytest.fixture
    def deep(self):
        generator = torch.Generator().manual_seed(3)
        sizes = [(D, H, W), (2, 3, 5), (1, 2, 3)]
        logits = [torch.randn(4, C, *size, generator=generator, requires_grad=True) for size in sizes]
        return TrainingOutput(logits[0], torch.ones(4, 1, D, H, W), None, None, None, None, tuple(logits[1:]))

    def test_every_level_learns_from_its_share(self, patches, deep):
        objective = build_objective(train_b=False, heteroscedastic_weight=0.0, pseudo_label_weight=0.9)
        terms = objective(lambda _image, **_: deep, patches, iteration=5)
        supervised, expected = DiceCrossEntropy(), {}
        for name, mask, weight in (("supervised_a", patches.labeled, 1.0), ("pseudo_label_a", ~patches.labeled, 0.9)):
            expected[name] = 4 / 7 * weight * supervised(deep.logits_a, patches.label, mask)
            for share, logits in zip((2 / 7, 1 / 7), deep.deep_logits, strict=True):
                label, seen = (at_size(volume, logits.shape[2:]) for volume in (patches.label, mask))
                expected["deep_a"] = expected.get("deep_a", 0) + share * weight * supervised(logits, label, seen)
        assert set(terms) == {*expected, "loss"}
        for name, value in expected.items():
            torch.testing.assert_close(terms[name], value)
        terms["loss"].backward()
        assert all(logits.grad.abs().sum() > 0 for logits in (deep.logits_a, *deep.deep_logits))

    def test_without_levels_nothing_changes(self, labelled_patches, deep):
        plain = deep._replace(deep_logits=())
        objective = build_objective(train_b=False, heteroscedastic_weight=0.0)
        terms = objective(lambda _image, **_: plain, labelled_patches, iteration=5)
        assert set(terms) == {"supervised_a", "loss"}

    def test_a_coarse_label_is_the_voxel_in_the_middle_of_each_cell(self):
        label = torch.arange(6 * 4 * 3).reshape(1, 1, 6, 4, 3)
        coarse = at_size(label, (2, 2, 3))
        assert torch.equal(coarse, label[..., 1::3, 1::2, :])

    def test_shares_are_halved_and_sum_to_one(self):
        assert deep_shares(0) == [1.0]
        assert deep_shares(2) == pytest.approx([4 / 7, 2 / 7, 1 / 7])


class TestLosses:
    def test_every_term_is_its_weight_times_its_loss_on_its_own_voxels(self, patches):
        forward = Forward()
        objective = build_objective(
            heteroscedastic_weight=0.3, iou_weight=0.7, pseudo_label_weight=0.9, consistency_weight=1.1
        )
        torch.manual_seed(0)
        terms = objective(forward, patches, iteration=5)
        torch.manual_seed(0)
        supervised, label, labeled = DiceCrossEntropy(), patches.label, patches.labeled
        a, b = forward.logits_a.softmax(1), forward.logits_b.softmax(1)
        expected = {
            "supervised_a": supervised(forward.logits_a, label, labeled),
            "heteroscedastic": 0.3
            * HeteroscedasticCrossEntropy(stride=2)(forward.logits_a, forward.variance, label, labeled),
            "supervised_b": supervised(forward.logits_b, label, labeled),
            "iou": 0.7 * iou_loss(forward.iou_predictions, forward.logits_b, label, labeled),
            "pseudo_label_a": 0.9 * supervised(forward.logits_a, label, ~labeled),
            "pseudo_label_b": 0.9 * supervised(forward.logits_b, label, ~labeled),
            "consistency": 1.1 * softmax_mse(a, b, ~labeled),
        }
        assert set(terms) == ALL_TERMS
        for name, value in expected.items():
            torch.testing.assert_close(terms[name], value, msg=lambda text, name=name: f"{name}: {text}")
        torch.testing.assert_close(terms["loss"], sum(expected.values()))

    @pytest.mark.parametrize(
        ("weight", "without"),
        [
            ("heteroscedastic_weight", {"heteroscedastic"}),
            ("iou_weight", {"iou"}),
            ("pseudo_label_weight", {"pseudo_label_a", "pseudo_label_b"}),
            ("consistency_weight", {"consistency"}),
        ],
    )
    def test_a_weight_of_zero_removes_its_terms(self, patches, weight, without):
        terms = build_objective(**{weight: 0.0})(Forward(), patches, iteration=0)
        assert set(terms) == ALL_TERMS - without
        torch.testing.assert_close(terms["loss"], sum(value for name, value in terms.items() if name != "loss"))

    def test_labelled_patches_alone_have_no_unlabelled_terms(self, labelled_patches):
        terms = build_objective()(Forward(), labelled_patches, iteration=0)
        assert set(terms) == {"supervised_a", "heteroscedastic", "supervised_b", "iou", "loss"}

    def test_pretraining_trains_model_a_alone(self, labelled_patches):
        forward = Forward()
        terms = build_objective(train_b=False)(forward, labelled_patches, iteration=0)
        assert set(terms) == {"supervised_a", "heteroscedastic", "loss"}
        terms["loss"].backward()
        assert forward.logits_a.grad.any()
        assert forward.logits_b.grad is None

    @pytest.mark.parametrize(("target", "taught"), [("a", "b"), ("b", "a"), ("both", "ab")])
    def test_the_consistency_target_is_detached(self, patches, target, taught):
        forward = Forward()
        build_objective(consistency_target=target)(forward, patches, iteration=0)["consistency"].backward()
        for side, logits in (("a", forward.logits_a), ("b", forward.logits_b)):
            assert (logits.grad is not None) == (side in taught)
            if side in taught:
                where = logits.grad.abs().amax(dim=1, keepdim=True) > 0
                assert torch.equal(where, ~patches.labeled)

    @pytest.mark.parametrize("iteration", [3, 4, 8, 13, 90])
    def test_ramp_up_counts_from_the_end_of_the_warm_up(self, patches, iteration):
        forward = Forward()
        ramped = build_objective(rampup_iterations=10, warmup_iterations=3)(forward, patches, iteration=iteration)
        plain = build_objective(warmup_iterations=3)(forward, patches, iteration=iteration)
        factor = sigmoid_rampup(iteration - 3, 10)
        assert math.isclose(factor, 1.0) == (iteration >= 13)
        for name in ("pseudo_label_a", "pseudo_label_b", "consistency"):
            torch.testing.assert_close(ramped[name], factor * plain[name])
        torch.testing.assert_close(ramped["supervised_a"], plain["supervised_a"])

    @pytest.mark.parametrize("side", ["logits_a", "logits_b"])
    def test_each_side_learns_from_every_voxel(self, patches, side):
        forward = Forward()
        build_objective(consistency_weight=0.0)(forward, patches, iteration=0)["loss"].backward()
        assert (getattr(forward, side).grad.abs().amax(dim=1) > 0).all()

    def test_iou_head_does_not_move_the_masks(self, patches):
        forward = Forward()
        build_objective()(forward, patches, iteration=0)["iou"].backward()
        assert forward.iou_predictions.grad.any()
        assert forward.logits_b.grad is None


class TestUser:
    """Model B's answers to a simulated user; see ``Forward.rounds`` for what is altered."""

    def test_it_is_handed_on_with_what_it_knows(self, patches):
        forward, objective = Forward(), build_objective(user={"rounds": 2, "targets": {"cut": 1.0}})
        objective(forward, patches, iteration=0)
        assert forward.asked["user"] == SimulatedUser(rounds=2, targets=AlteredTargets(cut=1.0))
        assert torch.equal(forward.asked["label"], patches.label)

    @pytest.mark.parametrize("options", [{"user": None}, {"user": {}, "train_b": False}])
    def test_without_one_nothing_is_said(self, patches, options):
        forward = Forward()
        terms = build_objective(**options)(forward, patches, iteration=0)
        assert forward.asked["user"] is None
        assert forward.asked["label"] is None
        assert not {"interaction", "clicks"} & set(terms)

    def test_what_was_changed_is_true_by_definition(self, patches):
        forward = Forward()
        terms = build_objective(user={}, pseudo_label_weight=0.9, iou_weight=0.7)(forward, patches, iteration=0)
        supervised, target = DiceCrossEntropy(), patches.label.clone()
        target[3] = (target[3] + 1) % C
        labeled = patches.labeled.clone()
        labeled[3] = True
        expected = {
            "supervised_a": supervised(forward.logits_a, patches.label, patches.labeled),
            "pseudo_label_a": 0.9 * supervised(forward.logits_a, patches.label, ~patches.labeled),
            "supervised_b": supervised(forward.logits_b, target, labeled),
            "pseudo_label_b": 0.9 * supervised(forward.logits_b, target, ~labeled),
            "iou": 0.7 * iou_loss(forward.iou_predictions, forward.logits_b, target, labeled),
        }
        for name, value in expected.items():
            torch.testing.assert_close(terms[name], value, msg=lambda text, name=name: f"{name}: {text}")

    @pytest.mark.parametrize("all_labeled", [False, True])
    def test_corrected_answers_weigh_as_one(self, patches, labelled_patches, all_labeled):
        """A mean over the rounds, of the voxels that could change; the targets of both patches were altered, so all of
        these are true.
        """
        forward, seen = Forward(), labelled_patches if all_labeled else patches
        terms = build_objective(user={}, interaction_weight=0.8, click_weight=0.5)(forward, seen, iteration=0)
        _, *later = forward.rounds(seen.label)
        losses = [DiceCrossEntropy()(each.logits, each.target, each.within) for each in later]
        torch.testing.assert_close(terms["interaction"], 0.8 * torch.stack(losses).mean())
        near = []
        for each in later:
            likelihood = each.logits.log_softmax(1).gather(1, each.target)
            near.append(-(likelihood * each.nearness).sum() / each.nearness.sum())
        torch.testing.assert_close(terms["clicks"], 0.8 * 0.5 * torch.stack(near).mean())
        torch.testing.assert_close(terms["loss"], sum(value for name, value in terms.items() if name != "loss"))

    def test_of_a_corrected_answer_only_what_could_change_learns(self, patches):
        forward = Forward()
        rounds = forward.rounds(patches.label)
        output = forward.output(rounds)
        build_objective(user={})(lambda *_, **__: output, patches, iteration=0)["interaction"].backward()
        for each in rounds[1:]:
            assert torch.equal(each.logits.grad.abs().amax(dim=1, keepdim=True) > 0, each.within)
        assert forward.logits_b.grad is None

    @pytest.mark.parametrize("unlabeled", [False, True])
    def test_where_nothing_was_altered_labels_are_a_persons_or_a_teachers(self, patches, unlabeled):
        """Of the teacher's with the weight of pseudo-labels; nothing counts twice."""
        forward = Forward()
        changed = torch.tensor([False, False])
        first, *later = forward.rounds(patches.label)
        later = [each._replace(changed=changed, target=patches.label[each.rows]) for each in later]
        labeled = torch.zeros_like(patches.labeled) if unlabeled else patches.labeled
        output = forward.output((first, *later))
        terms = build_objective(user={}, pseudo_label_weight=0.9)(
            lambda *_, **__: output, patches._replace(labeled=labeled), iteration=0
        )
        supervised, expected = DiceCrossEntropy(), []
        for each in later:
            told = labeled[each.rows]
            by_person, by_teacher = (
                supervised(each.logits, each.target, where & each.within) for where in (told, ~told)
            )
            expected.append(by_person + 0.9 * by_teacher)
        torch.testing.assert_close(terms["interaction"], torch.stack(expected).mean())

    def test_an_interaction_weight_of_zero_removes_both(self, patches):
        terms = build_objective(user={}, interaction_weight=0.0)(Forward(), patches, iteration=0)
        assert set(terms) == ALL_TERMS

    @pytest.mark.parametrize(
        ("options", "names"),
        [({}, ["consistency"]), ({"cross_pseudo_weight": 0.5}, ["cross_pseudo_a", "cross_pseudo_b"])],
    )
    def test_exchanged_classes_are_left_out_of_every_agreement(self, patches, options, names):
        forward = Forward()
        terms = build_objective(user={}, **options)(forward, patches, iteration=0)
        sum(terms[name] for name in names).backward()
        alike = ~patches.labeled
        alike[3] = False
        for logits in (forward.logits_a, forward.logits_b):
            assert torch.equal(logits.grad.abs().amax(dim=1, keepdim=True) > 0, alike)

    def test_the_teacher_draws_model_b_nowhere_where_classes_are_exchanged(self):
        objective = build_objective(user={}, copy_paste=False, teacher_weight=0.7)
        patches = objective.patches(make_batch(), teacher=teacher, iteration=0)
        forward = Forward()
        terms = objective(forward, patches, iteration=0)
        (terms["teacher_a"] + terms["teacher_b"]).backward()
        moved = [logits.grad.flatten(1).any(dim=1).tolist() for logits in (forward.logits_a, forward.logits_b)]
        assert moved == [[False, False, True, True], [False, False, True, False]]

    @pytest.mark.parametrize("copy_paste", [True, False])
    def test_it_corrects_by_the_teachers_labels_even_where_they_are_no_target(self, copy_paste):
        objective = build_objective(user={}, pseudo_label_weight=0.0, copy_paste=copy_paste)
        patches = objective.patches(make_batch(), teacher=teacher, iteration=0)
        assert torch.equal(patches.label, torch.where(patches.labeled, PERSON, TEACHER))
        assert not any("pseudo" in name for name in objective(Forward(), patches, iteration=0))


class TestModelBAlone:
    def test_nothing_of_model_a_is_a_term(self, patches):
        forward = Forward()
        forward.logits_a, forward.variance = forward.logits_a.detach(), forward.variance.detach()
        terms = build_objective(train_a=False)(forward, patches, iteration=0)
        assert forward.asked["with_a"] is False
        assert set(terms) == ALL_TERMS - {"supervised_a", "pseudo_label_a", "heteroscedastic"}
        terms["loss"].backward()
        assert forward.logits_b.grad.any()

    def test_somebody_must_learn(self):
        with pytest.raises(ValueError, match="train_a and train_b are both false"):
            build_objective(train_a=False, train_b=False)


@pytest.mark.parametrize(("options", "recordable"), [({}, True), ({"user": {}}, False), ({"train_a": False}, False)])
def test_which_objectives_can_be_recorded(options, recordable):
    assert build_objective(**options).recordable is recordable


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"click_weight": -1}, "click_weight -1 must not be negative"),
        ({"user": {"rounds": 0}}, "rounds 0"),
        ({"consistency_target": "c"}, "consistency_target 'c' must be"),
        ({"iou_weight": -1}, "iou_weight -1 must not be negative"),
        ({"pseudo_label_weight": -0.5}, "pseudo_label_weight -0.5 must not be negative"),
    ],
)
def test_impossible_settings_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        build_objective(**options)


class TestCrossPseudoSupervision:
    def test_each_model_learns_from_the_other_s_hard_labels_on_unlabelled_voxels(self, patches):
        forward = Forward()
        terms = build_objective(cross_pseudo_weight=0.5, rampup_iterations=10)(forward, patches, iteration=4)
        where = ~patches.labeled[:, 0]
        for side, logits, other in (
            ("a", forward.logits_a, forward.logits_b),
            ("b", forward.logits_b, forward.logits_a),
        ):
            log_likelihood = logits.log_softmax(1).gather(1, other.argmax(1, keepdim=True))[:, 0]
            expected = -0.5 * sigmoid_rampup(4, 10) * log_likelihood[where].mean()
            torch.testing.assert_close(terms[f"cross_pseudo_{side}"], expected)
        terms["cross_pseudo_a"].backward()
        assert forward.logits_b.grad is None
        assert torch.equal(forward.logits_a.grad.abs().amax(dim=1) > 0, where)

    def test_it_needs_two_models(self, patches):
        terms = build_objective(cross_pseudo_weight=0.5, train_b=False)(Forward(), patches, iteration=0)
        assert "cross_pseudo_a" not in terms


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
    def test_uncertain_voxels_do_not_count(self, iteration, share):
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
