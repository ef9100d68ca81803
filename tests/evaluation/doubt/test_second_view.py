import pytest
import torch
from monai.transforms import AdjustContrast

from aps_components.evaluation.doubt.second_view import MirroredMaps, agreement, brighter, second_view
from aps_components.inference import PromptedSlidingWindowInferer
from aps_components.inference.own_grid import WholeMaps
from aps_components.models import build_auto_prompt_seg

C, D, H, W = 3, 17, 24, 40


def probabilities(seed=0):
    return torch.randn(C, D, H, W, generator=torch.Generator().manual_seed(seed)).softmax(dim=0)


def test_mirrored_maps_are_those_that_were_mirrored():
    whole = probabilities()
    maps = MirroredMaps(WholeMaps(whole.flip([1, 3])), (0, 2))
    part = (slice(2, 9), slice(3, 20), slice(0, 33))
    assert torch.equal(maps.region(part), whole[(slice(None), *part)])
    assert torch.equal(maps.region(part, slice(1, 2)), whole[(slice(1, 2), *part)])


def test_agreement_is_the_dice_of_two_answers():
    one, other = probabilities(), probabilities(1)
    first, second = one.argmax(dim=0), other.argmax(dim=0)
    for label, found in enumerate(agreement(one, WholeMaps(other)), start=1):
        both = ((first == label) & (second == label)).sum()
        assert found == pytest.approx(float(2 * both / ((first == label).sum() + (second == label).sum())))
    assert agreement(one, WholeMaps(one)) == [1.0, 1.0]
    background = torch.eye(C)[0].view(C, 1, 1, 1).expand(C, D, H, W)
    assert agreement(background, WholeMaps(background)) == [None, None]


def test_a_symmetric_scan_gets_the_mirrored_answer():
    torch.manual_seed(0)
    network = build_auto_prompt_seg(num_classes=C, roi_size=[32] * 3, filters=4, sam_variant="tiny").eval()
    inferer = PromptedSlidingWindowInferer([32] * 3, mirror_axes=[0], precision="fp32")
    half = torch.randn(1, 1, 16, 32, 32)
    image = torch.cat([half, half.flip(2)], dim=2)
    assert second_view(image, network, inferer) is None  # nothing was mirrored or brightened in training
    network.second_view_axes = (0,)
    view = second_view(image, network, inferer)
    assert inferer.mirror_axes == [(0,)]
    with torch.inference_mode():
        alone = network.logits_of_a(image).softmax(dim=1)[0]
    whole = view.region(next(view.blocks))
    torch.testing.assert_close(whole, alone.flip(1), rtol=1e-4, atol=1e-5)


def test_where_nothing_was_mirrored_the_scan_is_made_brighter():
    torch.manual_seed(0)
    network = build_auto_prompt_seg(num_classes=C, roi_size=[32] * 3, filters=4, sam_variant="tiny").eval()
    inferer = PromptedSlidingWindowInferer([32] * 3, precision="fp32")
    image = torch.randn(1, 1, 32, 32, 32)
    network.contrast_varied = True
    view = second_view(image, network, inferer)
    with torch.inference_mode():
        alone = network.logits_of_a(AdjustContrast(gamma=0.7)(image[0])[None]).softmax(dim=1)[0]
    torch.testing.assert_close(view.region(next(view.blocks)), alone, rtol=1e-4, atol=1e-5)


def test_an_empty_scan_is_no_brighter():
    assert torch.equal(brighter(torch.full((1, 2, 3, 4, 5), -1.5)), torch.full((1, 2, 3, 4, 5), -1.5))
