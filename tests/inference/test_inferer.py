import numpy as np
import pytest
import torch
from monai.transforms import SpatialPad
from tiny import random_volume, tiny_network
from torch import nn

from aps_components.inference import PromptedSlidingWindowInferer
from aps_components.inference.inferer import mirrored_prompts
from aps_components.models import Seen
from aps_components.networks.sam3d import ImageEmbedding, Prompts, Sam3dOutput
from aps_components.prompts import PAD_LABEL, PromptGenerator
from aps_components.uncertainty import DecoupledUncertainty, MonteCarloSamples

ROI = (32, 32, 32)
ODD = (17, 24, 40)  # two axes smaller than the window, one larger


@pytest.fixture(scope="module")
def model():
    return tiny_network(ROI, num_classes=2, min_probability=0.4)


def make_inferer(**options):
    return PromptedSlidingWindowInferer(ROI, **{"precision": "fp32"} | options)


class Pointwise(nn.Module):
    """Knows each voxel's class from its own value alone: the same in every window. Model B is twice as sure as A.

    Its own points are the brightest voxels.
    """

    num_classes = 2
    predictor = "average"
    prompt_stride = (1, 1, 1)
    own_slots = 8

    def __init__(self):
        super().__init__()
        self.prompt_generator = PromptGenerator(points_per_class=4, radius=2, min_probability=0.9)
        self.asked = []

    def forward(self, patch):
        return torch.cat([torch.zeros_like(patch), 2 * patch], dim=1)

    def see(self, patch):
        logits = self(patch)
        samples = MonteCarloSamples(logits.softmax(1)[None], torch.zeros_like(patch)[None])
        uncertainty = DecoupledUncertainty(1 * patch, -3 * patch)
        return Seen(tuple(patch.shape[2:]), logits, samples, uncertainty, ImageEmbedding(logits))

    def answer(self, seen, prompts, *, mask_inputs=None, asked=None):
        self.asked.append(prompts)
        return Sam3dOutput(2 * seen.embedding.tokens, torch.zeros(1, 2))


def answers(logits):
    """Of A, of B and of both, from A's logits."""
    a, b = logits.softmax(1), (2 * logits).softmax(1)
    return a, b, (a + b) / 2


@pytest.mark.parametrize("size", [ODD, ROI, (33, 40, 61)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_every_voxel_comes_back_at_its_place(size, overlap):
    volume = random_volume(size)
    inferer = make_inferer(overlap=overlap)
    a, b, both = answers(Pointwise()(volume))
    prediction = inferer.predict(volume, Pointwise())
    torch.testing.assert_close(inferer(volume, Pointwise()), both)
    torch.testing.assert_close(prediction.probabilities, both)
    torch.testing.assert_close(prediction.probabilities_a, a)
    torch.testing.assert_close(prediction.probabilities_b, b)
    torch.testing.assert_close(prediction.epistemic, volume, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(prediction.aleatoric, -3 * volume, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2), ([0, 1],), ([0, 2], 1)])
def test_mirror_images_are_turned_back_and_averaged(axes):
    class Ramp(Pointwise):
        """Knows where in the window a voxel is, along all axes, and nothing else."""

        def forward(self, patch):
            d, h, w = (torch.arange(float(size)) for size in patch.shape[2:])
            place = (d[:, None, None] + 2 * h[:, None] + 3 * w).expand_as(patch) / 100
            return torch.cat([torch.zeros_like(patch), place], dim=1)

    volume = random_volume(ROI)
    inferer = make_inferer(mirror_axes=axes)
    logits, groups = Ramp()(volume), [np.atleast_1d(group) + 2 for group in axes]
    chosen = [[group for bit, group in enumerate(groups) if number >> bit & 1] for number in range(2 ** len(groups))]
    subsets = [[int(dim) for group in some for dim in group] for some in chosen]
    expected = torch.stack([answers(logits.flip(subset))[2] for subset in subsets]).mean(0)
    torch.testing.assert_close(inferer(volume, Ramp()), expected)
    prediction = inferer.predict(volume, Ramp())
    assert torch.equal(prediction.probabilities, inferer(volume, Ramp()))
    torch.testing.assert_close(prediction.epistemic, volume)  # of each voxel's own value: the flips cancel


def test_points_are_mirrored_with_the_window():
    volume, network = torch.zeros(1, 1, *ROI), Pointwise()
    volume[0, 0, 3, 4, 5] = 5.0
    prompts = make_inferer(mirror_axes=(0, 2)).predict(volume, network).prompts
    assert [point.voxel for point in prompts] == [(3, 4, 5)]
    told = [asked.own_coords[0, 0].tolist() for asked in network.asked]
    assert told == [[3, 4, 5], [28, 4, 5], [3, 4, 26], [28, 4, 26]]
    assert all(asked.own_labels.tolist() == [[1, *[PAD_LABEL] * 7]] for asked in network.asked)


def test_boxes_and_scribbles_turn_with_the_window():
    one = torch.tensor([[1]])
    prompts = Prompts.none(1)._replace(
        boxes=torch.tensor([[[[1.0, 2, 3], [4, 5, 6]]]]),
        box_labels=one,
        stroke_coords=torch.tensor([[[7.0, 8, 9]]]),
        stroke_labels=one,
    )
    turned = mirrored_prompts(prompts, (0, 2), (17, 24, 40))
    assert turned.boxes.tolist() == [[[[12, 2, 33], [15, 5, 36]]]]
    assert turned.stroke_coords.tolist() == [[[9, 8, 30]]]
    assert mirrored_prompts(prompts, (), (17, 24, 40)) is prompts


@pytest.mark.parametrize("axes", [(3,), (0, 0), (-1,), ([0, 1], 1), ([],)])
def test_wrong_mirror_axes_are_named(axes):
    with pytest.raises(ValueError, match="mirror_axes"):
        make_inferer(mirror_axes=axes)


@pytest.mark.parametrize("sw_batch_size", [1, 3])
def test_points_are_chosen_once_over_the_whole_volume(sw_batch_size):
    volume = torch.zeros(1, 1, 33, 20, 61)
    bright = [(0, 0, 0), (32, 19, 60), (16, 10, 30), (1, 12, 47)]
    for voxel in bright:
        volume[(0, 0, *voxel)] = 5.0
    prompts = make_inferer(sw_batch_size=sw_batch_size).predict(volume, Pointwise()).prompts
    assert sorted(point.voxel for point in prompts) == sorted(bright)
    assert {point.label for point in prompts} == {1}


def test_a_window_is_told_of_the_points_in_it():
    volume, network = torch.zeros(1, 1, ODD[0], 32, 61), Pointwise()  # padded by 7 before d; windows along w
    volume[0, 0, 2, 3, 1] = volume[0, 0, 10, 20, 59] = 5.0
    make_inferer(overlap=0.0).predict(volume, network)
    told = [
        [tuple(c) for c, label in zip(p.own_coords[0].tolist(), p.own_labels[0], strict=True) if label >= 0]
        for p in network.asked
    ]
    assert told == [[(9, 3, 1)], [(17, 20, 30)]]


def test_padding_has_no_points():
    class Dark(Pointwise):
        """Takes the padding for the object."""

        def forward(self, patch):
            return torch.cat([torch.where(patch == 0, -9.0, 9.0), torch.where(patch == 0, 9.0, -9.0)], dim=1)

    volume = torch.ones(1, 1, *ODD)
    assert {point.label for point in make_inferer().predict(volume, Dark()).prompts} == {0}


def test_windows_are_blended_as_probabilities():
    class OfTheWindow(nn.Module):
        """All of a window gets the logit of its largest value."""

        def forward(self, patch):
            high = patch.amax(dim=(2, 3, 4), keepdim=True).expand_as(patch)
            return torch.cat([torch.zeros_like(patch), high], dim=1)

    volume = torch.zeros(1, 1, 32, 32, 48)
    volume[..., 0], volume[..., 47] = 1.0, 4.0
    answer = make_inferer(mode="constant")(volume, OfTheWindow())[0, 1, 0, 0]
    left, right = torch.tensor([1.0, 4.0]).sigmoid()
    expected = torch.cat([left.expand(16), ((left + right) / 2).expand(16), right.expand(16)])
    torch.testing.assert_close(answer, expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", [ODD, (40, 33, 36)])
def test_calling_is_predicting_to_the_bit(model, size, precision):
    volume, inferer = random_volume(size), make_inferer(precision=precision, overlap=0.25)
    with torch.inference_mode():
        called = inferer(volume, model)
    prediction = inferer.predict(volume, model)
    assert torch.equal(called, prediction.probabilities)
    assert called.shape == (1, 2, *size)
    assert all(part.dtype == torch.float32 for part in prediction[:5])
    torch.testing.assert_close(called.sum(dim=1), torch.ones(1, *size))


def test_windows_at_once_do_not_matter(model):
    volume = random_volume((33, 24, 49))
    one, three = (make_inferer(sw_batch_size=size, overlap=0.25).predict(volume, model) for size in (1, 3))
    for first, second in zip(one[:5], three[:5], strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)
    assert {(point.label, point.voxel) for point in one.prompts} == {
        (point.label, point.voxel) for point in three.prompts
    }


def test_one_window_is_the_network_itself(model):
    volume = random_volume(ROI)
    prediction = make_inferer().predict(volume, model)
    with torch.no_grad():
        direct = model.predict(volume)
    torch.testing.assert_close(prediction.probabilities, direct.logits.softmax(1))
    torch.testing.assert_close(prediction.probabilities_a, direct.logits_a.softmax(1))
    torch.testing.assert_close(prediction.probabilities_b, direct.logits_b.softmax(1))
    torch.testing.assert_close(prediction.epistemic, direct.epistemic)
    torch.testing.assert_close(prediction.aleatoric, direct.aleatoric)
    real = direct.prompts.point_labels != PAD_LABEL
    assert {(point.label, point.voxel) for point in prediction.prompts} == {
        (label, tuple(int(index) for index in voxel))
        for label, voxel in zip(
            direct.prompts.point_labels[real].tolist(), direct.prompts.point_coords[real].tolist(), strict=True
        )
    }


def test_small_volume_is_padded_as_in_training(model):
    volume = random_volume((17, 24, 29))
    padded = SpatialPad((32, 32, 32))(volume[0])[None].as_tensor()
    small, large = make_inferer().predict(volume, model), make_inferer().predict(padded, model)
    torch.testing.assert_close(small.probabilities_a, large.probabilities_a[:, :, 7:24, 4:28, 1:30])
    torch.testing.assert_close(small.epistemic, large.epistemic[:, :, 7:24, 4:28, 1:30])


def test_real_prompts_are_unique_and_inside(model):
    volume = random_volume((33, 24, 49))
    prompts = make_inferer().predict(volume, model).prompts
    assert prompts
    assert len({(point.label, point.voxel) for point in prompts}) == len(prompts)
    for point in prompts:
        assert point.label in (0, 1)
        assert 0 < point.score <= 1
        assert all(0 <= index < size for index, size in zip(point.voxel, (33, 24, 49), strict=True))


def test_a_batch_of_volumes_is_refused(model):
    with pytest.raises(ValueError, match="one volume at a time, not a batch of 2"):
        make_inferer().predict(torch.zeros(2, 1, *ROI), model)
