import math

import pytest
import torch

from aps_components.models import build_auto_prompt_seg, load_weights
from aps_components.models.decision import Decision

B, C, D, H, W = 2, 3, 5, 4, 7
ROI = (32, 48, 16)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def network(**options):
    return build_auto_prompt_seg(num_classes=C, roi_size=ROI, filters=4, sam_variant="tiny", **options).eval()


def volume_of(logits):
    return torch.bincount(logits.argmax(dim=1).flatten(), minlength=C).tolist()


def test_starts_as_nothing_and_adds_a_number_for_each_class():
    decision, logits = Decision(C), torch.randn(B, C, D, H, W)
    assert torch.equal(decision(logits, "a"), logits)
    decision.offsets[1] = torch.tensor([0.0, 2.0, -3.0])
    assert torch.equal(decision(logits, "a"), logits)
    moved = decision(logits.bfloat16(), "b") - logits.bfloat16().float()
    torch.testing.assert_close(moved.mean(dim=(0, 2, 3, 4)), torch.tensor([0.0, 2.0, -3.0]))


def test_an_update_by_hand():
    """Of 10 voxels 4 are called class 1, and 2 are. The logarithm of 1/2, times the step; class 2 has its volume."""
    called = torch.tensor([1, 1, 1, 1, 2, 0, 0, 0, 0, 0])
    logits = 9 * torch.nn.functional.one_hot(called, C).T.view(1, C, 1, 1, 10).float()
    label = torch.tensor([1, 1, 2, 0, 0, 0, 0, 0, 0, 0]).view(1, 1, 1, 1, 10)
    decision = Decision(C, step=0.5, memory=0.8)
    decision.update(logits, label, "b")
    torch.testing.assert_close(decision.offsets[1], torch.tensor([0, 0.5 * math.log(0.5), 0]), atol=1e-4, rtol=0)
    assert torch.equal(decision.offsets[0], torch.zeros(C))
    decision.update(logits, label.roll(-1), "b")  # the volumes so far count 0.8, and none has changed
    assert decision.offsets[1, 1].item() == pytest.approx(2 * 0.5 * math.log(0.5), abs=1e-3)
    decision.update(logits, torch.zeros_like(label), "b")  # 2 * (0.64 + 0.8) to 4 * (0.64 + 0.8 + 1): below 1 / e
    assert decision.offsets[1, 1].item() == pytest.approx(2 * 0.5 * math.log(0.5) - 0.5, abs=1e-3)


def called_as(classes):
    """Logits of ten voxels that are certain of these classes."""
    return 9 * torch.nn.functional.one_hot(torch.tensor(classes), C).T.view(1, C, 1, 1, 10).float()


def test_former_volumes_fade_at_each_update():
    """First 4 voxels are called class 1 and 2 are; then 2 are both. 0.5 * 4 + 2 to 0.5 * 2 + 2."""
    label = torch.tensor([1, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    decision = Decision(C, step=0.5, memory=0.5)
    for called in ([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], label.tolist()):
        decision.update(called_as(called), label.view(1, 1, 1, 1, 10), "a")
    expected = 0.5 * math.log(2 / 4) + 0.5 * math.log(3 / 4)
    assert decision.offsets[0, 1].item() == pytest.approx(expected, abs=1e-3)


def test_a_class_that_is_absent_from_a_few_patches_does_not_run_away():
    """Ten patches hold it as it is found; then three do not, and one voxel of ten is still called so."""
    label = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    decision = Decision(C)
    for _ in range(10):
        decision.update(called_as(label.tolist()), label.view(1, 1, 1, 1, 10), "a")
    for _ in range(3):
        decision.update(called_as([1] + [0] * 9), torch.zeros(1, 1, 1, 1, 10, dtype=torch.long), "a")
    assert -0.5 < decision.offsets[0, 1] < 0  # without a memory -1.5


def test_voxels_without_a_label_do_not_count():
    """As of the ten voxels above, with five more that nobody labelled, and a patch of those alone."""
    called = torch.tensor([[1, 1, 1, 1, 2, 0, 0, 0, 0, 0, 1, 2, 1, 0, 2], [1] * 15])
    logits = 9 * torch.nn.functional.one_hot(called, C).movedim(-1, 1).view(2, C, 1, 1, 15).float()
    label = torch.tensor([[1, 1, 2, 0, 0, 0, 0, 0, 0, 0] + 5 * [255], 15 * [255]]).view(2, 1, 1, 1, 15)
    decision = Decision(C, step=0.5)
    decision.update(logits, label, "a")
    torch.testing.assert_close(decision.offsets[0], torch.tensor([0, 0.5 * math.log(0.5), 0]), atol=1e-4, rtol=0)
    before = decision.offsets.clone()
    decision.update(logits[1:], label[1:], "a")
    assert torch.equal(decision.offsets, before)


def test_a_class_that_nobody_drew_keeps_its_offset():
    """Of class 2 the first patch says nothing, and of class 1 both."""
    logits = 9 * torch.nn.functional.one_hot(torch.full((2, 10), 1), C).movedim(-1, 1).view(2, C, 1, 1, 10).float()
    label = torch.tensor([[1] * 5 + [0] * 5, [1] * 3 + [2] * 2 + [0] * 5]).view(2, 1, 1, 1, 10)
    undrawn = torch.tensor([[False, False, True], [False, False, True]])
    decision = Decision(C, step=0.5)
    decision.update(logits, label, "b", undrawn=undrawn)
    torch.testing.assert_close(decision.offsets[1], torch.tensor([0, 0.5 * math.log(8 / 20), 0]), atol=1e-3, rtol=0)
    decision.update(logits, label, "b", undrawn=torch.tensor([[False, False, True], [False, False, False]]))
    assert decision.offsets[1, 2] == 0.5  # none of two voxels was found: the largest change


def test_fitted_volumes_are_those_of_labelled_voxels_and_drawn_classes():
    label = torch.randint(0, 10, (2, 1, D, H, 8 * W)).clamp(7).sub(7)
    logits = torch.nn.functional.one_hot(label[:, 0], C).movedim(-1, 1) + torch.randn(2, C, D, H, 8 * W)
    truth = label.clone()
    truth[..., ::2] = 255
    truth[0][truth[0] == 2] = 0
    undrawn = torch.zeros(2, C, D, H, 8 * W, dtype=torch.bool)
    undrawn[0, 2] = True
    decision = Decision(C)
    decision.fit(logits, truth, "a", undrawn=undrawn)
    called, labelled = decision(logits, "a").argmax(dim=1, keepdim=True), truth != 255
    assert (called == 1)[labelled].sum() == pytest.approx(int((truth == 1).sum()), abs=1)
    assert (called[1] == 2)[labelled[1]].sum() == pytest.approx(int((truth[1] == 2).sum()), abs=1)


def test_volumes_become_those_of_the_truth():
    """Logits of overlapping classes, biased towards class 1; each update sees other patches."""
    decision = Decision(C)
    true, called = torch.zeros(C), torch.zeros(C)
    for update in range(300):
        label = torch.randint(0, 10, (B, 1, D, H, W)).clamp(7).sub(7)  # 80 %, 10 %, 10 %
        logits = torch.nn.functional.one_hot(label[:, 0], C).movedim(-1, 1) + 0.7 * torch.randn(B, C, D, H, W)
        logits = decision(logits + torch.tensor([0.0, 1.0, 0.3]).view(1, C, 1, 1, 1), "a")
        if update >= 200:
            true += torch.bincount(label.flatten(), minlength=C)
            called += torch.tensor(volume_of(logits))
        decision.update(logits, label, "a")
    torch.testing.assert_close(called, true, rtol=0.05, atol=0)
    assert decision.offsets[0, 0] == 0


def test_a_class_that_is_never_found_is_not_forced():
    decision, label = Decision(C), torch.ones(B, 1, D, H, W, dtype=torch.long)
    nowhere = torch.tensor([20.0, 0, 0]).view(1, C, 1, 1, 1).expand(B, C, D, H, W)
    for _ in range(50):
        decision.update(decision(nowhere, "a"), label, "a")
    assert decision.offsets.tolist() == [[0, 3, 0], [0, 0, 0]]


def test_fitted_at_once_every_class_has_its_volume():
    decision, label = Decision(C), torch.randint(0, 10, (B, 1, D, H, W)).clamp(7).sub(7)
    logits = torch.nn.functional.one_hot(label[:, 0], C).movedim(-1, 1) + torch.randn(B, C, D, H, W)
    decision.fit(logits + torch.tensor([0.0, 2.0, -1.0]).view(1, C, 1, 1, 1), label, "b")
    fitted = decision(logits + torch.tensor([0.0, 2.0, -1.0]).view(1, C, 1, 1, 1), "b")
    assert volume_of(fitted) == pytest.approx(torch.bincount(label.flatten()).tolist(), abs=1)
    assert torch.equal(decision.offsets[0], torch.zeros(C))


def test_fitted_on_a_line():
    """Class 1 has logits 5, 4, 3, 2, 1 and two voxels: the threshold lies between 4 and 3."""
    logits = torch.tensor([[0.0, 0, 0, 0, 0], [5, 4, 3, 2, 1]]).view(1, 2, 1, 1, 5)
    decision = Decision(2)
    decision.fit(logits, torch.tensor([0, 1, 0, 1, 0]).view(1, 1, 1, 1, 5), "a")
    assert decision.offsets.tolist() == [[0, -3.5], [0, 0]]
    decision.fit(logits, torch.zeros(1, 1, 1, 1, 5, dtype=torch.long), "a")
    assert decision.offsets.tolist() == [[0, 0], [0, 0]]


def test_a_class_that_is_nowhere_stays_as_it_is():
    decision, label = Decision(C), torch.zeros(B, 1, D, H, W, dtype=torch.uint8)
    decision.update(torch.tensor([1.0, 0, 0]).view(1, C, 1, 1, 1).expand(B, C, D, H, W), label, "a")
    assert torch.equal(decision.offsets, torch.zeros(2, C))


@pytest.mark.parametrize("predictor", ["a", "b", "average"])
def test_the_networks_answers_have_it_and_its_prompts_do_not(predictor):
    model, image = network(predictor=predictor), torch.randn(1, 1, *ROI)
    with torch.inference_mode():
        before, plain = model.predict(image), model(image)
        model.decision.offsets[0, 1], model.decision.offsets[1, 1] = 3.0, -2.0
        after, moved = model.predict(image), model(image)
    torch.testing.assert_close((after.logits_a - before.logits_a)[:, 1], torch.full((1, *ROI), 3.0))
    torch.testing.assert_close((after.logits_b - before.logits_b)[:, 1], torch.full((1, *ROI), -2.0))
    assert all(map(torch.equal, before.prompts, after.prompts))
    assert torch.equal(before.epistemic, after.epistemic)
    torch.testing.assert_close(moved.softmax(dim=1), after.logits.softmax(dim=1))
    assert not torch.allclose(moved, plain)


def test_training_does_not_feel_it():
    model, image, outputs = network().train(), torch.randn(B, 1, *ROI), []
    for offset in (0.0, 5.0):
        model.decision.offsets[:, 1] = offset
        torch.manual_seed(3)
        outputs.append(model.training_forward(image))
    assert torch.equal(outputs[0].logits_a, outputs[1].logits_a)
    assert torch.equal(outputs[0].logits_b, outputs[1].logits_b)


def test_travels_with_the_weights_and_older_weights_have_none(tmp_path):
    first, second = network(), network()
    first.decision.offsets[:, 1] = 1.5
    torch.save(first.state_dict(), tmp_path / "model.pt")
    load_weights(second, tmp_path / "model.pt")
    assert torch.equal(second.decision.offsets, first.decision.offsets)
    older = {key: value for key, value in first.state_dict().items() if not key.startswith("decision.")}
    torch.save(older, tmp_path / "older.pt")
    load_weights(second, tmp_path / "older.pt")
    assert torch.equal(second.decision.offsets, torch.zeros(2, C))
    first.load_state_dict(older)
    assert torch.equal(first.decision.offsets, torch.zeros(2, C))
