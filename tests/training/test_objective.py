"""The losses, what each weighs, and which voxels it sees."""

import math

import pytest
import torch
from students import PERSON, TEACHER, C, D, Forward, H, W, make_batch, teacher
from torch.nn import functional as F

from aps_components.losses import HeteroscedasticCrossEntropy, iou_loss, sigmoid_rampup, softmax_mse
from aps_components.losses.supervised import DiceCrossEntropy
from aps_components.models import TrainingOutput
from aps_components.prompts import AlteredTargets, SimulatedUser
from aps_components.training import build_objective
from aps_components.training.objective import deep_shares
from aps_components.training.patches import at_size
from aps_components.training.teacher_consistency import TeacherTarget

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

    def test_iou_head_learns_nothing_of_patches_that_the_teacher_alone_labelled(self, patches):
        """Nothing of them counts, and of nothing the IoU is 1."""
        patches.labeled[2:] = False
        forward = Forward()
        terms = build_objective(iou_weight=0.7)(forward, patches, iteration=0)
        by_a_person = (forward.iou_predictions[:2], forward.logits_b[:2], patches.label[:2], patches.labeled[:2])
        torch.testing.assert_close(terms["iou"], 0.7 * iou_loss(*by_a_person))
        terms["iou"].backward()
        assert forward.iou_predictions.grad.flatten(1).any(dim=1).tolist() == [True, True, False, False]

    def test_agreement_is_measured_in_float32(self, patches):
        """Answers that are alike agree, though one is in bf16, as a second V-Net's under autocast."""
        forward = Forward()
        forward.logits_b = forward.logits_b.detach().bfloat16()
        forward.logits_a = forward.logits_b.float()
        assert build_objective()(forward, patches, iteration=0)["consistency"] == 0


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

    def test_an_altered_part_of_a_target_weighs_by_itself_however_small_it_is(self, patches):
        """A mean over its voxels alone, of the automatic answer; nothing was corrected yet."""
        forward, target = Forward(), patches.label.clone()
        part = target[3:, ..., :4]
        part += 1
        part %= C
        output = forward.output([forward.rounds(patches.label)[0]._replace(target=target)])
        terms = build_objective(user={}, interaction_weight=0.8, click_weight=0.5)(
            lambda *_, **__: output, patches, iteration=0
        )
        torch.testing.assert_close(terms["told"], 0.4 * F.cross_entropy(forward.logits_b[3:, ..., :4], part[:, 0]))
        assert not {"interaction", "clicks"} & set(terms)

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

    def test_iou_head_judges_corrected_answers_too(self, patches):
        """Against the target where it was altered, as in patch 3, and elsewhere where a person labelled."""
        forward = Forward()
        first, *later = forward.rounds(patches.label)
        changed, generator = torch.tensor([True, False]), torch.Generator().manual_seed(4)
        opinions = [torch.rand(2, C, generator=generator).requires_grad_() for _ in later]
        later = [
            each._replace(iou_predictions=opinion, changed=changed)
            for each, opinion in zip(later, opinions, strict=True)
        ]
        output = forward.output((first, *later))
        options = {"user": {}, "iou_weight": 0.7, "interaction_weight": 0.8}
        terms = build_objective(**options)(lambda *_, **__: output, patches, iteration=0)
        true = torch.stack([torch.ones_like(patches.labeled[3]), patches.labeled[1]])
        expected = [iou_loss(each.iou_predictions, each.logits, each.target, true) for each in later]
        torch.testing.assert_close(terms["iou_corrected"], 0.7 * torch.stack(expected).mean())
        terms["iou_corrected"].backward()
        assert all(opinion.grad.all() for opinion in opinions)
        assert all(each.logits.grad is None for each in later)

    def test_an_interaction_weight_of_zero_removes_all_of_them(self, patches):
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
    def test_both_models_follow_a_certain_teacher_on_unlabelled_voxels_of_the_patches_that_it_saw(self, patches):
        """Half-way up the ramp a term weighs exp(-5 / 4) of its weight."""
        rows, generator = torch.tensor([1, 3]), torch.Generator().manual_seed(5)
        probabilities = torch.randn(2, C, D, H, W, generator=generator).softmax(dim=1)
        certain = torch.rand(2, 1, D, H, W, generator=generator) > 0.4
        forward, objective = Forward(), build_objective(teacher_weight=0.7, rampup_iterations=10)
        patches = patches._replace(target=TeacherTarget(rows, probabilities, certain))
        terms = objective(forward, patches, iteration=5)
        counts = (~patches.labeled[rows] & certain)[:, 0]
        for side, logits in (("a", forward.logits_a), ("b", forward.logits_b)):
            squared = (logits[rows].softmax(dim=1) - probabilities).square().mean(dim=1)
            torch.testing.assert_close(terms[f"teacher_{side}"], 0.7 * math.exp(-1.25) * squared[counts].mean())
