"""Labels that are not whole in training: what they leave out is the teacher's, and never the background."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from pipelines import training_transforms

from aps_components.data import SeededCacheDataset, two_stream_loader
from aps_components.data.datalist import load_datalist
from aps_components.data.partial import NOT_LABELED, table_of
from aps_components.data.transforms import evaluation_transforms
from aps_components.evaluation.metrics import foreground_regions, mean_dice
from aps_components.inference import PromptedSlidingWindowInferer
from aps_components.label_map import likeliest_class
from aps_components.losses import DiceCrossEntropy, merged_logits
from aps_components.models import Round, TrainingOutput, build_auto_prompt_seg
from aps_components.training import MeanTeacher, SemiSupervisedTrainer, build_objective

C, D, H, W = 4, 5, 7, 11


def no_teacher(_image):
    pytest.fail("the teacher was asked")


def likes(*classes):
    """A teacher that finds these classes ever less likely, and all others less still."""

    def teacher(image):
        logits = torch.full((image.shape[0], C, *image.shape[2:]), -9.0)
        for place, index in enumerate(classes):
            logits[:, index] = -float(place)
        return logits

    return teacher


def batch_of(label, *, undrawn=(), unlabeled=0):
    labels = label[None, None].expand(2, 1, D, H, W)
    batch = {"labeled": {"image": torch.randn(2, 1, D, H, W), "label": labels.to(torch.uint8)}}
    batch["labeled"]["undrawn"] = torch.stack([table_of(undrawn), table_of(())])
    if unlabeled:
        batch["unlabeled"] = {"image": torch.randn(unlabeled, 1, D, H, W)}
    return batch


@pytest.fixture
def slices():
    """Class 1 in a box; labelled in two slices."""
    label = torch.zeros(D, H, W)
    label[1:4, 2:5, 3:8] = 1
    labeled = torch.zeros(D, H, W, dtype=torch.bool)
    labeled[..., [4, 9]] = True
    return label.masked_fill(~labeled, NOT_LABELED), labeled


class Forward:
    """A student whose answers are leaves, so that gradients tell who learns from what."""

    def __init__(self, patches):
        generator = torch.Generator().manual_seed(0)
        shape = (patches, C, D, H, W)
        self.logits_a, self.logits_b = (torch.randn(shape, generator=generator).requires_grad_() for _ in range(2))
        self.variance = torch.rand(patches, 1, D, H, W, generator=generator).requires_grad_()
        self.iou = torch.rand(patches, C, generator=generator).requires_grad_()

    def __call__(self, image, **_):
        return TrainingOutput(self.logits_a, self.variance, self.logits_b, self.iou, None, None)


class Corrected(Forward):
    """Also corrected once, everywhere; the target of the second patch was altered in all of its voxels."""

    def __init__(self, patches):
        super().__init__(patches)
        self.corrected = torch.randn(self.logits_b.shape, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def __call__(self, image, *, label, **_):
        target = torch.cat([label[:1], (label[1:] + 1) % C])
        rows, altered, everywhere = torch.tensor([1, 0]), torch.tensor([False, True]), torch.ones(2, 1, D, H, W)
        automatic = Round(torch.arange(2), self.logits_b, self.iou, target, altered, 0 * everywhere, everywhere < 0)
        corrected = Round(rows, self.corrected, self.iou, target[rows], altered[rows], everywhere, everywhere > 0)
        return super().__call__(image)._replace(rounds=(automatic, corrected))


@pytest.mark.parametrize("unlabeled", [0, 2])
def test_nothing_is_learned_of_unlabelled_voxels_in_the_warm_up(slices, unlabeled):
    label, labeled = slices
    objective = build_objective(warmup_iterations=3)
    patches = objective.patches(batch_of(label, unlabeled=unlabeled), teacher=no_teacher, iteration=2)
    forward = Forward(2)
    objective(forward, patches, iteration=2)["loss"].backward()
    for leaf in (forward.logits_a, forward.logits_b, forward.variance):
        taught = (leaf.grad != 0).any(dim=1)
        assert not taught[:, ~labeled].any()
    assert (forward.logits_a.grad != 0).any(dim=1)[:, labeled].all()


def test_what_a_user_corrects_is_learned_in_the_warm_up_where_somebody_labelled_alone(slices):
    """An altered target needs no truth, and yet nothing is learned of voxels that do not count."""
    label, labeled = slices
    objective, forward = build_objective(user={}, warmup_iterations=3), Corrected(2)
    patches = objective.patches(batch_of(label), teacher=likes(2), iteration=2)
    terms = objective(forward, patches, iteration=2)
    for name, leaf, rows in (
        ("supervised_b", forward.logits_b, [0, 1]),
        ("told", forward.logits_b, [1]),
        ("interaction", forward.corrected, [0, 1]),
        ("clicks", forward.corrected, [0, 1]),
    ):
        (gradient,) = torch.autograd.grad(terms[name], leaf, retain_graph=True)
        taught = (gradient != 0).any(dim=1)
        assert not taught[:, ~labeled].any(), name
        assert taught[rows][:, labeled].all(), name


def test_the_teacher_labels_what_a_person_left_out(slices):
    label, labeled = slices
    objective = build_objective(copy_paste=False, largest_component=False)
    patches = objective.patches(batch_of(label, unlabeled=2), teacher=likes(2), iteration=0)
    assert patches.label.shape == (4, 1, D, H, W)
    assert torch.equal(patches.labeled[:2, 0], labeled.expand(2, D, H, W))
    assert torch.equal(patches.label[0, 0], torch.where(labeled, label.long(), 2))
    assert not patches.labeled[2:].any()
    assert torch.equal(patches.undecided, ~patches.labeled)


def test_they_are_learned_from_the_teacher_without_an_unlabelled_scan(slices):
    label, _ = slices
    objective = build_objective(heteroscedastic_weight=0.0, consistency_weight=0.0, largest_component=False)
    patches = objective.patches(batch_of(label), teacher=likes(2), iteration=0)
    forward = Forward(2)
    terms = objective(forward, patches, iteration=0)
    expected = DiceCrossEntropy()(forward.logits_a, torch.full_like(patches.label, 2), ~patches.labeled)
    torch.testing.assert_close(terms["pseudo_label_a"], 0.5 * expected)


def test_the_largest_component_of_the_teacher_leaves_a_persons_label_alone(slices):
    label, labeled = slices
    label[0, 0, 9] = 1  # a small piece
    patches = build_objective().patches(batch_of(label), teacher=likes(1), iteration=0)
    assert torch.equal(patches.label[0, 0][labeled], label[labeled].long())


def test_copy_paste_mixes_what_is_labelled(slices):
    label, labeled = slices
    torch.manual_seed(1)
    patches = build_objective(largest_component=False).patches(
        batch_of(label, undrawn=[3], unlabeled=2), teacher=likes(2), iteration=0
    )
    in_box, around_box = patches.labeled.chunk(2)
    assert torch.equal(in_box ^ around_box, labeled.expand_as(in_box))
    assert not (in_box & around_box).any()
    assert patches.undrawn[:, 3].tolist() == [True, False, True, False]


def test_the_background_beside_undrawn_classes_is_the_teachers_to_tell_apart():
    """Of classes 1 to 3 the first alone was drawn, in the first patch."""
    label = torch.zeros(D, H, W)
    label[1:4, 2:5, 3:8] = 1
    objective = build_objective(largest_component=False)
    patches = objective.patches(batch_of(label, undrawn=[2, 3]), teacher=likes(1, 3, 0), iteration=0)
    assert patches.labeled.all()
    assert torch.equal(patches.label[0, 0], torch.where(label == 1, 1, 3))  # 1 is likeliest, and known not to be there
    assert torch.equal(patches.label[1, 0], label.long())
    assert torch.equal(patches.merged_label[:, 0], label.long().expand(2, D, H, W))
    assert torch.equal(patches.undecided[:, 0], torch.stack([label == 0, torch.zeros(D, H, W, dtype=torch.bool)]))


def test_undrawn_classes_have_the_marginal_loss_and_the_teachers():
    label = torch.zeros(D, H, W)
    label[1:4, 2:5, 3:8] = 1
    objective = build_objective(heteroscedastic_weight=0.0, consistency_weight=0.0, largest_component=False)
    patches = objective.patches(batch_of(label, undrawn=[2, 3]), teacher=likes(3, 0), iteration=0)
    forward, supervised = Forward(2), DiceCrossEntropy()
    terms = objective(forward, patches, iteration=0)
    truth = label.long().expand(2, 1, D, H, W)
    marginal = supervised(merged_logits(forward.logits_a, patches.undrawn[:, :C]), truth)
    torch.testing.assert_close(terms["supervised_a"], marginal)
    teachers = supervised(forward.logits_a, torch.full_like(truth, 3), patches.undecided)
    torch.testing.assert_close(terms["pseudo_label_a"], 0.5 * teachers)


def test_an_undrawn_class_is_not_called_background():
    """The gradient at a voxel of the background: towards class 2 or 0, whichever the student says; away from 1."""
    label = torch.zeros(D, H, W)
    objective = build_objective(warmup_iterations=1, dice_weight=0.0, heteroscedastic_weight=0.0)
    patches = objective.patches(batch_of(label, undrawn=[2, 3]), teacher=no_teacher, iteration=0)
    forward = Forward(2)
    objective(forward, patches, iteration=0)["loss"].backward()
    gradient = forward.logits_a.grad
    assert (gradient[0, [0, 2, 3]] < 0).all()
    assert (gradient[0, 1] > 0).all()
    assert (gradient[1, [1, 2, 3]] > 0).all()


def test_levels_of_deep_supervision_see_it(slices):
    label, _ = slices
    objective = build_objective(warmup_iterations=1, train_b=False, heteroscedastic_weight=0.0)
    patches = objective.patches(batch_of(label), teacher=no_teacher, iteration=0)
    coarse = torch.randn(2, C, 2, 3, 5, requires_grad=True)
    output = Forward(2)(None)._replace(logits_b=None, iou_predictions=None, deep_logits=(coarse,))
    terms = objective(lambda *_, **__: output, patches, iteration=0)
    terms["deep_a"].backward()
    seen = patches.labeled[:, :, 1::2, 1::2, 1::2][:, :, :2, :3, :5]
    assert torch.equal((coarse.grad != 0).any(dim=1, keepdim=True), seen)


# What is learned: by two convolutions of noisy boxes, then by a V-Net of made-up scans.

SIZE = (12, 10, 15)


def boxes(count, generator):
    """Noisy images of a box, and its label, [count, 1, D, H, W]."""
    label = torch.zeros(count, 1, *SIZE, dtype=torch.uint8)
    for each in label:
        low = [int(torch.randint(1, size // 2, (1,), generator=generator)) for size in SIZE]
        each[0, low[0] : low[0] + 5, low[1] : low[1] + 4, low[2] : low[2] + 7] = 1
    return label + 0.7 * torch.randn(label.shape, generator=generator), label


def learned(label, *, image, scans):
    """A small network after some iterations on these labels, with its Dice on other images."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(8, 2, 3, padding=1)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    objective = build_objective(
        train_b=False, heteroscedastic_weight=0.0, largest_component=False, warmup_iterations=40
    )

    def forward(patches, **_):
        return TrainingOutput(network(patches), torch.ones(1), None, None, None, None)

    for iteration in range(80):
        rows = torch.arange(4) + 4 * iteration
        batch = {"image": image[rows % scans], "label": label[rows % scans], "undrawn": torch.zeros(4, 256) > 0}
        patches = objective.patches({"labeled": batch}, teacher=network, iteration=iteration)
        optimizer.zero_grad()
        objective(forward, patches, iteration=iteration)["loss"].backward()
        optimizer.step()
    others, truth = boxes(20, torch.Generator().manual_seed(9))
    answer = network(others).argmax(dim=1, keepdim=True)
    return 2 * int((answer * truth).sum()) / int(answer.sum() + truth.sum())


@pytest.mark.slow
def test_a_third_of_the_slices_of_three_times_the_scans_is_worth_whole_labels():
    image, label = boxes(24, torch.Generator().manual_seed(0))
    unlabeled = torch.arange(SIZE[2]) % 3 != 0
    third = label.masked_fill(unlabeled, NOT_LABELED)
    whole = learned(label, image=image, scans=8)
    assert learned(third, image=image, scans=24) > whole - 0.02
    assert whole > 0.85
    assert learned(label.masked_fill(unlabeled, 0), image=image, scans=24) < whole - 0.1  # taken for background


ROI, ITERATIONS = (32, 32, 32), 120


def with_slices(folder, target, *, ignored_is_background=False):
    """Every third slice of six scans, as many as two whole scans have."""
    content = json.loads((folder / "datalist.json").read_text())
    training = []
    for number, entry in enumerate(content["training"][:6]):
        file = nib.load(folder / entry["label"])
        label, named = np.asarray(file.dataobj).copy(), {}
        numbers = list(range(number % 3, label.shape[2], 3))
        label[..., [n for n in range(label.shape[2]) if n not in numbers]] = 0
        place = target / f"{number}.nii.gz"
        nib.save(nib.Nifti1Image(label, file.affine), place)
        if not ignored_is_background:
            named = {"labeled_slices": numbers}
        training.append({"image": str(folder / entry["image"]), "label": str(place), **named})
    (target / "datalist.json").write_text(json.dumps({**content, "training": training, "validation": [], "test": []}))
    return target


def trained_dice(folder, *, scans, judged):
    """Mean Dice of Model A alone on whole test scans."""
    torch.manual_seed(0)
    transforms = training_transforms(roi_size=ROI, intensity="zscore", augmentation="flips", balanced_crops=0.33)
    items = load_datalist(folder, labeled_count=scans).labeled
    loader = two_stream_loader(
        SeededCacheDataset(items, transforms, progress=False, num_workers=1),
        labeled_batch=2,
        unlabeled_batch=0,
        epoch_length=ITERATIONS,
        seed=0,
        repeat_cases=True,
    )
    network = build_auto_prompt_seg(
        num_classes=2, roi_size=ROI, filters=8, norm="instance", sam_variant="tiny", predictor="a"
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    teacher = MeanTeacher(network, decay=0.9)
    SemiSupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=ITERATIONS),
        objective=build_objective(train_b=False, warmup_iterations=ITERATIONS // 2),
        teacher=teacher,
        precision="fp32",
    ).run()
    load = evaluation_transforms(intensity="zscore")
    inferer = PromptedSlidingWindowInferer(roi_size=ROI, overlap=0.5)
    dice = []
    for item in judged:
        data = load({key: item[key] for key in ("image", "label")})
        with torch.inference_mode():
            answer = likeliest_class(inferer(data["image"].as_tensor()[None], teacher.module.eval()), dim=1)[0, 0]
        regions = foreground_regions({0: "background", 1: "atrium"})
        dice.append(mean_dice(answer.numpy(), np.asarray(data["label"][0]), regions))
    return float(np.mean(dice))


@pytest.mark.slow
def test_a_third_of_the_slices_teaches_as_much_as_whole_labels_of_as_many_slices(labelled_phantoms, tmp_path):
    judged = load_datalist(labelled_phantoms).test
    whole = trained_dice(labelled_phantoms, scans=2, judged=judged)
    (tmp_path / "third").mkdir()
    third = trained_dice(with_slices(labelled_phantoms, tmp_path / "third"), scans=6, judged=judged)
    (tmp_path / "wrong").mkdir()
    wrong = trained_dice(
        with_slices(labelled_phantoms, tmp_path / "wrong", ignored_is_background=True), scans=6, judged=judged
    )
    print(f"whole {whole:.3f}, a third of the slices {third:.3f}, taken for background {wrong:.3f}")
    assert whole > 0.6
    assert third > whole - 0.03
    assert wrong < third - 0.1
