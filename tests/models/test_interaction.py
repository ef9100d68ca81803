"""Model B and a simulated user: who is asked, what is said, and what counts as true."""

from unittest.mock import patch

import numpy as np
import pytest
import torch

from aps_components.models import as_tensors, build_auto_prompt_seg, together
from aps_components.models.interaction import InteractiveRounds, own_prompts
from aps_components.networks.sam3d import Prompts, build_sam3d
from aps_components.prompts import AlteredTargets, Box, Click, PointPrompts, Scribble, SimulatedUser, UserPrompts
from aps_components.prompts.corrected import LIKELY

B, C, SIZE = 4, 3, (32, 16, 48)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def model_b():
    torch.manual_seed(1)
    return build_sam3d(num_classes=C, variant="tiny", reference_size=SIZE)


@pytest.fixture
def image():
    return torch.randn(B, 1, *SIZE)


@pytest.fixture
def label():
    """A box of each class in every patch, in another place each."""
    label = torch.zeros(B, 1, *SIZE, dtype=torch.long)
    for row in range(B):
        label[row, 0, 4 + row : 20 + row, 2:13, 5 : 20 + row] = 1
        label[row, 0, 10:28, 3:12, 25 + row : 44] = 2
    return label


@pytest.fixture
def points():
    """Model A's own: four a patch, one of them a pad."""
    coords = torch.tensor([[10.0, 8, 12], [15, 8, 35], [1, 1, 1], [0, 0, 0]]).expand(B, 4, 3)
    return PointPrompts(coords, torch.tensor([1, 2, 0, -1]).repeat(B, 1), torch.tensor([0.9, 0.7, 0.5, 0]).repeat(B, 1))


def plain_user(**changes):
    """Nothing is flipped, altered or weaker unless it is asked for."""
    return SimulatedUser(
        **{"told": 0, "flipped": 0, "wrong": 0, "altered": 0, "weaker": 0, "own": 1, "simulated": 0, "none": 0}
        | changes
    )


def run(model_b, user, *, image, label, points, seed=0, size=SIZE):
    """The rounds, and what each decoding was called with."""
    rounds = InteractiveRounds(
        model_b,
        user,
        label=label,
        weaker_logits=weaker_answer(len(label), size),
        points=points,
        rng=np.random.default_rng(seed),
    )
    with torch.no_grad(), patch.object(model_b, "decode", wraps=model_b.decode) as decode:
        answers = rounds.run(model_b.encode(image), image_size=size)
    return answers, [call.kwargs for call in decode.call_args_list]


def weaker_answer(batch=B, size=SIZE):
    """What ``run`` gives as Model A's under dropout."""
    return torch.randn(batch, C, *size, generator=torch.Generator().manual_seed(5))


def marked(prompts, row, *, of="point"):
    """The points of one patch that are no pads, as (class, voxel): a user's, or Model A's ``own``."""
    coords, labels = (getattr(prompts, f"{of}_{part}")[row] for part in ("coords", "labels"))
    return {
        (int(label), tuple(int(value) for value in voxel))
        for label, voxel in zip(labels[labels >= 0], coords[labels >= 0], strict=True)
    }


def mean_answer(*logits):
    """Log of the mean of the probabilities."""
    return sum(each.softmax(dim=1) for each in logits).div(len(logits)).log()


def as_earlier(logits):
    """What an earlier answer counts for; see ``Sam3d.decode``."""
    return logits.log_softmax(dim=1).clamp(min=-3)


def begins_from(start, answer):
    """Whether mask inputs [C, D, H, W] are an earlier answer's, but for where a click moved the border of its class."""
    start, answer = start.softmax(dim=0), answer.softmax(dim=0)
    moved = (start - answer).abs().amax(dim=0) > 1e-4
    return (
        bool(torch.allclose(start.amax(dim=0)[moved], torch.tensor(LIKELY), atol=1e-4)) and moved.float().mean() < 0.8
    )


class TestRows:
    @pytest.mark.parametrize(("corrected", "count"), [(0.0, 1), (0.5, 2), (0.75, 3), (1.0, 4)])
    def test_all_patches_first_then_a_share_of_them(self, model_b, image, label, points, corrected, count):
        user = plain_user(corrected=corrected, rounds=3)
        answers, calls = run(model_b, user, image=image, label=label, points=points)
        assert len(answers) == len(calls) == 3
        assert answers[0].rows.tolist() == list(range(B))
        assert answers[0].logits.shape == (B, C, *SIZE)
        for answer in answers[1:]:
            assert len(set(answer.rows.tolist())) == count
            assert torch.equal(answer.rows, answers[1].rows)
            assert answer.logits.shape == (count, C, *SIZE)
            assert answer.iou_predictions.shape == (count, C)
            assert answer.target.shape == answer.nearness.shape == (count, 1, *SIZE)
            assert torch.equal(answer.target, label[answer.rows])
            assert answer.changed.tolist() == [False] * count

    def test_other_patches_the_next_time(self, model_b, image, label, points):
        user = plain_user(corrected=0.5, rounds=2)
        seen = {
            tuple(run(model_b, user, image=image, label=label, points=points, seed=seed)[0][1].rows.tolist())
            for seed in range(8)
        }
        assert len(seen) > 2

    def test_one_round_is_the_automatic_answer(self, model_b, image, label, points):
        answers, calls = run(model_b, plain_user(rounds=1), image=image, label=label, points=points)
        assert len(answers) == len(calls) == 1
        assert calls[0]["mask_inputs"] is None
        assert not answers[0].nearness.any()

    def test_patches_with_exchanged_classes_are_corrected_last(self, model_b, image, label, points):
        user, counts = plain_user(corrected=0.5, flipped=0.5, rounds=2), set()
        for seed in range(8):
            answers, _ = run(model_b, user, image=image, label=label, points=points, seed=seed)
            exchanged, corrected = int(answers[0].changed.sum()), answers[0].changed[answers[1].rows]
            assert int(corrected.sum()) == max(0, 2 - (B - exchanged))
            counts.add(exchanged)
        assert len(counts) > 2


class TestCorrections:
    @pytest.mark.parametrize("weaker", [0.0, 1.0])
    def test_clicks_lie_in_errors_of_the_answer_before_and_say_the_truth(self, model_b, image, label, points, weaker):
        user = plain_user(rounds=4, corrected=1.0, weaker=weaker)
        answers, calls = run(model_b, user, image=image, label=label, points=points)
        said_in_all = 0
        for number in range(1, 4):
            before = None if number == 1 else answers[number - 1].logits
            for row in range(B):
                new = marked(calls[number]["prompts"], row) - marked(calls[number - 1]["prompts"], row)
                assert len(new) <= 4  # 3 clicks and the middle of a scribble
                said_in_all += len(new)
                for said, voxel in new:
                    assert label[(row, 0, *voxel)] == said
                    assert before is None or before[(row, slice(None), *voxel)].argmax() != said
        assert said_in_all >= 2 * B

    def test_the_answer_before_is_the_mask_prompt(self, model_b, image, label, points):
        answers, calls = run(model_b, plain_user(rounds=3, corrected=0.5), image=image, label=label, points=points)
        assert calls[0]["mask_inputs"] is None
        own, weaker = answers[0].logits[answers[1].rows], weaker_answer()[answers[1].rows]
        for start, *possible in zip(calls[1]["mask_inputs"], own, mean_answer(own, weaker), strict=True):
            assert any(begins_from(start, each) for each in possible)
        for start, former in zip(calls[2]["mask_inputs"], answers[1].logits, strict=True):
            assert begins_from(start, former)

    @pytest.mark.parametrize("weaker", [0.0, 0.4, 1.0])
    def test_corrections_begin_from_a_weaker_answer_the_mean_or_its_own(self, model_b, image, label, points, weaker):
        """In use the mean of A's and B's answers is corrected; half of what is not weaker begins there."""
        user, begun = plain_user(rounds=2, corrected=1.0, weaker=weaker), {"weaker": 0, "mean": 0, "own": 0}
        for seed in range(6):
            answers, calls = run(model_b, user, image=image, label=label, points=points, seed=seed)
            own = answers[0].logits
            starts = {"weaker": weaker_answer(), "mean": mean_answer(own, weaker_answer()), "own": own}
            for row, start in enumerate(calls[1]["mask_inputs"]):
                (name,) = [name for name, each in starts.items() if begins_from(start, each[row])]
                begun[name] += 1
        rest = 24 * (1 - weaker) / 2
        assert begun["weaker"] == pytest.approx(24 * weaker, abs=0 if weaker in (0, 1) else 8)
        for name in ("mean", "own"):
            assert begun[name] == pytest.approx(rest, abs=8 if rest else 0)

    def test_it_is_near_where_the_user_marked(self, model_b, image, label, points):
        """Up to two tokens, 16 voxels; to half a voxel of the grid at 1/2, on which it is reckoned."""
        answers, calls = run(model_b, plain_user(rounds=2, corrected=1.0), image=image, label=label, points=points)
        for row in range(B):
            of_user, strokes = marked(calls[1]["prompts"], row), calls[1]["prompts"].stroke_coords
            assert of_user
            voxels = torch.tensor([voxel for _, voxel in of_user]).float()
            if strokes is not None:
                voxels = torch.cat([voxels, strokes[row][calls[1]["prompts"].stroke_labels[row] >= 0]])
            near = answers[1].nearness[row, 0]
            place = torch.stack(torch.meshgrid(*map(torch.arange, SIZE), indexing="ij"), dim=-1)
            distance = torch.stack([(place - voxel).norm(dim=-1) for voxel in voxels]).amin(dim=0)
            torch.testing.assert_close(near, (1 - distance / 16).clamp_min(0), atol=0.15, rtol=0)
            assert near[distance == 0].min() > 0.85
            assert not near[distance > 16 + 4].any()

    def test_what_counts_is_where_an_answer_may_change(self, model_b, image, label, points):
        """Clicks, scribbles and boxes are among the prompts; everything else stays exactly as it was."""
        user, kinds = plain_user(rounds=3, corrected=1.0, own=0, simulated=1), set()
        for seed in range(3):
            answers, calls = run(model_b, user, image=image, label=label, points=points, seed=seed)
            for answer, call in zip(answers[1:], calls[1:], strict=True):
                former = as_earlier(call["mask_inputs"])
                changed = (answer.logits != former).any(dim=1, keepdim=True)
                assert not (changed & ~answer.within).any()
                assert changed[answer.within].float().mean() > 0.99
                assert answer.within[answer.nearness > 0].all()
                assert 0 < answer.within.float().mean() < 1
                given = call["prompts"]
                for row, voxels in enumerate(given.stroke_coords if given.stroke_coords is not None else []):
                    d, h, w = voxels[given.stroke_labels[row] >= 0].long().T
                    assert (answer.nearness[row, 0, d, h, w] > 0.85).all()
                for row, boxes in enumerate(given.boxes if given.boxes is not None else []):
                    for (low, high), said in zip(boxes.long(), given.box_labels[row], strict=True):
                        inside = tuple(slice(a, b + 1) for a, b in zip(low.tolist(), high.tolist(), strict=True))
                        assert said < 0 or answer.within[(row, 0, *inside)].all()
                kinds |= {name for name in ("boxes", "stroke_coords") if getattr(given, name) is not None}
        assert kinds == {"boxes", "stroke_coords"}

    def test_nothing_is_said_of_an_answer_that_is_right(self, model_b, image, points):
        user = plain_user(rounds=2, corrected=1.0, weaker=1.0)
        right = weaker_answer().argmax(dim=1, keepdim=True)
        answers, calls = run(model_b, user, image=image, label=right, points=points)
        assert not answers[1].nearness.any()
        assert not answers[1].within.any()
        assert not any(marked(calls[1]["prompts"], row) for row in range(B))
        assert torch.equal(answers[1].logits, as_earlier(weaker_answer()))

    def test_thick_slices(self):
        """Clicks are where an axis that is not halved is looked at in full."""
        size, strides = (16, 24, 7), ((2, 2, 1),) * 3
        thick = build_sam3d(num_classes=C, variant="tiny", reference_size=size, strides=strides)
        image, label = torch.randn(2, 1, *size), torch.randint(C, (2, 1, *size))
        nothing = PointPrompts(torch.zeros(2, 0, 3), torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0))
        user = plain_user(rounds=3, corrected=1.0, clicks=6)
        places = set()
        for seed in range(3):
            answers, calls = run(thick, user, image=image, label=label, points=nothing, seed=seed, size=size)
            assert answers[-1].logits.shape == (2, C, *size)
            for row in range(2):
                for said, voxel in marked(calls[-1]["prompts"], row):
                    assert label[(row, 0, *voxel)] == said
                    places.add(voxel)
        assert any(voxel[2] % 2 for voxel in places)
        assert all(voxel[0] % 2 == voxel[1] % 2 == 0 for voxel in places)


class TestFirstPrompts:
    def test_own_points_as_sure_as_their_scores(self, model_b, image, label, points):
        _, calls = run(model_b, plain_user(rounds=1), image=image, label=label, points=points)
        given = calls[0]["prompts"]
        assert torch.equal(given.own_coords, points.point_coords)
        assert torch.equal(given.own_weights, points.scores)
        assert not any(marked(given, row) for row in range(B))
        assert given.boxes is None
        assert given.stroke_coords is None

    def test_a_random_part_of_own_points(self, model_b, image, label, points):
        """Many would be the answer itself: any share of them, each patch its own. A correction has none."""
        many = PointPrompts(*(part.repeat_interleave(20, dim=1) for part in points))
        answers, calls = run(model_b, plain_user(rounds=2, corrected=1.0), image=image, label=label, points=many)
        first, second = (call["prompts"].own_labels for call in calls)
        assert (second == -1).all()
        assert ((first == many.point_labels) | (first == -1)).all()
        shares = (first >= 0).float().mean(dim=1) / 0.75
        assert len(set(shares.tolist())) == B
        assert shares.max() - shares.min() > 0.2
        assert torch.equal(answers[0].target, label)

    def test_nothing(self, model_b, image, label, points):
        _, calls = run(model_b, plain_user(rounds=1, own=0, none=1), image=image, label=label, points=points)
        given = calls[0]["prompts"]
        assert not any(marked(given, row) | marked(given, row, of="own") for row in range(B))

    def test_a_user_in_the_place_of_own_points(self, model_b, image, label, points):
        kinds = set()
        for seed in range(4):
            user = plain_user(rounds=1, own=0, simulated=1)
            _, calls = run(model_b, user, image=image, label=label, points=points, seed=seed)
            given = calls[0]["prompts"]
            for row in range(B):
                for said, voxel in marked(given, row):
                    assert label[(row, 0, *voxel)] == said
            labels = {name: part for name, part in given._asdict().items() if "labels" in name and part is not None}
            kinds |= {name for name, part in labels.items() if (part >= 0).any()}
        assert kinds == {"point_labels", "box_labels", "stroke_labels"}

    def test_by_weight(self, model_b, image, label, points):
        begins, many = {"own": 0, "none": 0}, PointPrompts(*(part.repeat_interleave(20, dim=1) for part in points))
        for seed in range(8):
            user = plain_user(rounds=1, own=1, none=3)
            _, calls = run(model_b, user, image=image, label=label, points=many, seed=seed)
            for row in range(B):
                begins["own" if marked(calls[0]["prompts"], row, of="own") else "none"] += 1
        assert begins["own"] == pytest.approx(8, abs=7)


class TestTargets:
    def test_own_points_tell_of_an_altered_target(self, model_b, image, label, points):
        """Every point that is there says the target's class, and some lie where it was altered."""
        user, told = plain_user(told=1.0, rounds=1), 0
        for seed in range(4):
            (answer,), (call,) = run(model_b, user, image=image, label=label, points=points, seed=seed)
            altered = answer.target != label
            assert torch.equal(answer.changed, altered.flatten(1).any(dim=1))
            for row, (voxels, classes) in enumerate(
                zip(call["prompts"].own_coords, call["prompts"].own_labels, strict=True)
            ):
                there = voxels[classes >= 0].long()
                d, h, w = there.T
                assert torch.equal(answer.target[row, 0, d, h, w], classes[classes >= 0])
                told += int(altered[row, 0, d, h, w].any())
        assert told > B

    def test_exchanged_classes_are_told_by_own_points(self, model_b, image, label, points):
        kept = label.clone()
        user = plain_user(rounds=2, corrected=1.0, flipped=1.0, own=0, none=1, altered=1.0)
        answers, calls = run(model_b, user, image=image, label=label, points=points)
        for row in range(B):
            table = [answers[0].target[row][label[row] == true].unique().tolist() for true in range(C)]
            assert sorted(table) == [[0], [1], [2]]
            assert all(new != [old] for old, new in enumerate(table))
        given = calls[0]["prompts"]
        assert torch.equal(given.own_coords, points.point_coords)
        assert torch.equal(given.own_labels == -1, points.point_labels == -1)
        for row in range(B):
            for said, voxel in marked(given, row, of="own"):
                assert answers[0].target[(row, 0, *voxel)] == said
        for answer in answers:
            assert answer.changed.all()
            assert torch.equal(answer.target, answers[0].target)  # not altered as well
        assert torch.equal(label, kept)

    def test_nobody_exchanges_classes_that_no_point_tells_of(self, model_b, image, label, points):
        labels = points.point_labels.clone()
        labels[1:] = -1
        answers, _ = run(
            model_b,
            plain_user(rounds=1, flipped=1.0),
            image=image,
            label=label,
            points=points._replace(point_labels=labels),
        )
        assert answers[0].changed.tolist() == [True, False, False, False]
        assert torch.equal(answers[0].target[1:], label[1:])

    def test_altered_targets_come_with_the_corrections(self, model_b, image, label, points):
        kept = label.clone()
        user = plain_user(
            rounds=3,
            corrected=0.5,
            altered=1.0,
            own=0,
            simulated=1,
            targets=AlteredTargets(other_answer=0, shifted_border=0, ellipsoid=0),
        )
        answers, calls = run(model_b, user, image=image, label=label, points=points)
        assert not answers[0].changed.any()
        assert torch.equal(answers[0].target, label)
        assert torch.equal(label, kept)
        for answer in answers[1:]:
            assert answer.changed.all()
            cut = answer.target != label[answer.rows]
            assert cut.any()
            assert (answer.target[cut] == 0).all()
        for position in range(len(answers[1].rows)):
            for said, voxel in marked(calls[2]["prompts"], position):  # what was said of the former target is gone
                assert answers[1].target[(position, 0, *voxel)] == said
        assert all(call["prompts"].boxes is None for call in calls[1:])

    def test_another_answer_may_be_right(self, model_b, image, label, points):
        ways = AlteredTargets(shifted_border=0, ellipsoid=0, cut=0)
        user = plain_user(rounds=2, corrected=1.0, altered=1.0, targets=ways)
        answers, _ = run(model_b, user, image=image, label=label, points=points)
        other = weaker_answer().argmax(dim=1, keepdim=True)
        assert ((answers[1].target == label) | (answers[1].target == other)).all()


class TestInTheModel:
    @staticmethod
    def forward(user, label, *, seed=7, points_per_class=4, **settings):
        torch.manual_seed(1)
        model = build_auto_prompt_seg(
            num_classes=C,
            roi_size=SIZE,
            filters=4,
            sam_variant="tiny",
            prompts={"points_per_class": points_per_class, "radius": 4, "min_probability": 0.01},
            **settings,
        ).train()
        image = torch.randn(B, 1, *SIZE)
        torch.manual_seed(seed)
        with patch.object(model.model_b, "encode", wraps=model.model_b.encode) as encode:
            output = model.training_forward(image, label=label, user=user)
        assert encode.call_count == 1  # the rounds share one embedding
        return model, output

    def test_the_same_seed_gives_the_same_rounds(self, label):
        user = SimulatedUser(flipped=0.3, altered=0.6)
        (_, first), (_, again), (_, other) = (self.forward(user, label, seed=seed) for seed in (7, 7, 8))
        for one, two in zip(first.rounds, again.rounds, strict=True):
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, two, strict=True))
        assert not all(
            torch.equal(one.nearness, two.nearness) and torch.equal(one.target, two.target)
            for one, two in zip(first.rounds, other.rounds, strict=True)
        )

    def test_without_a_user_there_are_no_rounds(self, label):
        for user, given in ((None, label), (SimulatedUser(), None)):
            _, output = self.forward(user, given)
            assert output.rounds == ()
            assert output.logits_b.shape == (B, C, *SIZE)

    def test_the_automatic_answer_is_the_first(self, label):
        _, output = self.forward(plain_user(), label)
        assert output.logits_b is output.rounds[0].logits
        assert output.iou_predictions is output.rounds[0].iou_predictions
        # Of its own points a user takes some away; without any, the answer is that of a training without a user.
        (_, with_user), (_, plain) = (self.forward(user, label, points_per_class=0) for user in (plain_user(), None))
        torch.testing.assert_close(with_user.logits_b, plain.logits_b)

    @pytest.mark.parametrize("fusion", ["none", "cafa"])
    def test_gradients_reach_every_parameter_of_b_and_none_of_a(self, label, fusion):
        user = SimulatedUser(simulated=3.0, corrected=1.0)
        model, output = self.forward(user, label, fusion=fusion)
        sum(
            (each.logits * torch.randn_like(each.logits)).sum() + each.iou_predictions.sum() for each in output.rounds
        ).backward()
        assert all(p.grad is None for p in model.model_a.parameters())
        without = [
            name
            for name, parameter in [*model.model_b.named_parameters(), *(model.fusion or model).named_parameters()]
            if not name.startswith("model_") and (parameter.grad is None or not parameter.grad.any())
        ]
        # A bias of all keys shifts every score of a query alike.
        assert [name for name in without if not name.endswith("k_proj.bias")] == []


def given_prompts():
    """Of three volumes: two clicks and a box; a scribble; nothing."""
    line = Scribble(2, [(1, 2, 3), (1, 2, 4), (1, 2, 5)])
    return [
        UserPrompts([Click(1, (5, 6, 7)), Click(0, (8, 9, 10))], [Box(2, (1, 2, 3), (11, 12, 13))], []),
        UserPrompts([], [], [line]),
        UserPrompts.none(),
    ]


def test_what_a_user_gave_as_tensors():
    prompts = as_tensors(given_prompts(), device="cpu")
    assert prompts.point_labels.tolist() == [[1, 0], [2, -1], [-1, -1]]
    assert prompts.point_coords[:2].tolist() == [[[5, 6, 7], [8, 9, 10]], [[1, 2, 4], [0, 0, 0]]]
    assert prompts.own_coords.shape == (3, 0, 3)
    assert prompts.box_labels.tolist() == [[2], [-1], [-1]]
    assert prompts.boxes[0, 0].tolist() == [[1, 2, 3], [11, 12, 13]]
    assert prompts.stroke_labels.tolist() == [[-1] * 3, [2] * 3, [-1] * 3]
    assert prompts.stroke_coords[1].tolist() == [[1, 2, 3], [1, 2, 4], [1, 2, 5]]


def test_nothing_as_tensors():
    prompts = as_tensors([UserPrompts.none()] * 2, device="cpu")
    assert prompts.point_coords.shape == (2, 0, 3)
    assert prompts[5:] == (None,) * 4


def test_own_points_are_kept_apart_from_those_of_a_user():
    given = as_tensors(given_prompts(), device="cpu")
    own = torch.ones(3, 1, 3), torch.tensor([[0], [1], [-1]]), torch.full((3, 1), 0.25, dtype=torch.float64)
    both = together(given, *own)
    assert torch.equal(both.own_coords, own[0])
    assert both.own_labels.tolist() == [[0], [1], [-1]]
    assert both.own_weights.tolist() == [[0.25]] * 3
    assert both.own_weights.dtype == torch.float32
    for name in set(Prompts._fields) - {"own_coords", "own_labels", "own_weights"}:
        assert getattr(both, name) is getattr(given, name)
    assert both.tokens[1].tolist() == [[1, 0, 0], [2, -1, 1], [-1, -1, -1]]


def test_a_models_own_points_are_as_sure_as_their_scores():
    points = PointPrompts(torch.ones(2, 3, 3), torch.tensor([[0, 1, -1]] * 2), torch.tensor([[0.9, 0.5, 0]] * 2))
    prompts = own_prompts(points)
    assert torch.equal(prompts.own_weights, points.scores)
    assert torch.equal(prompts.own_labels, points.point_labels)
    assert prompts.point_labels.shape == (2, 0)
