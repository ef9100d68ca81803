"""Gradients of convolutions on tiny grids stay right in bf16."""

from unittest.mock import patch

import pytest
import torch
from torch.nn import functional as F

from aps_components.convolution import Conv3d, plain_convolutions


@pytest.mark.parametrize("grid", [(2, 2, 1), (2, 2, 2), (2, 3, 2), (1, 1, 1), (4, 3, 3)])
@pytest.mark.parametrize("channels", [16, 256])
def test_the_weights_gradient_is_that_of_float32(grid: tuple[int, int, int], channels: int) -> None:
    torch.manual_seed(0)
    convolution = Conv3d(channels, channels, kernel_size=3, padding=1).to(memory_format=torch.channels_last_3d)
    features = torch.randn(4, channels, *grid).to(memory_format=torch.channels_last_3d)
    gradient = torch.randn(4, channels, *grid)
    junk = [torch.full((size,), 1e30) for size in (4096, 65536, convolution.weight.numel())]
    del junk  # what the broken kernel would read
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = convolution(features)
    result.backward(gradient.to(result.dtype))
    expected = torch.nn.grad.conv3d_weight(features, convolution.weight.shape, gradient, padding=1)
    assert convolution.weight.grad is not None
    torch.testing.assert_close(convolution.weight.grad, expected, rtol=0.05, atol=0.02 * float(expected.abs().max()))


def test_outside_autocast_it_is_torchs_convolution() -> None:
    convolution = Conv3d(3, 5, kernel_size=3, padding=1)
    features = torch.randn(2, 3, 2, 7, 5)
    expected = F.conv3d(features, convolution.weight, convolution.bias, padding=1)
    torch.testing.assert_close(convolution(features), expected)


def test_larger_grids_stay_in_bf16() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Conv3d(2, 4, kernel_size=1)(torch.randn(1, 2, 3, 5, 7)).dtype is torch.bfloat16


def test_one_volume_in_float32_is_torchs_convolution_too() -> None:
    """It goes through as a pair where torch would be slow; values and gradients are those of one."""
    torch.manual_seed(0)
    convolution = Conv3d(6, 5, kernel_size=3, stride=(2, 1, 1), padding=1)
    features = torch.randn(1, 6, 17, 7, 5, requires_grad=True)
    expected = F.conv3d(features, convolution.weight, convolution.bias, stride=(2, 1, 1), padding=1)
    result = convolution(features)
    torch.testing.assert_close(result, expected)
    gradient = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (features, convolution.weight, convolution.bias), gradient)
    found = torch.autograd.grad(result, (features, convolution.weight, convolution.bias), gradient)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 3, 1), (1, 1, 1)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_small_volume_in_inference_is_torchs_convolution_too(kernel, dilation) -> None:
    """It goes to oneDNN by name; memory of either layout."""
    torch.manual_seed(0)
    padding = tuple(dilation * (size // 2) for size in kernel)
    convolution = Conv3d(6, 5, kernel_size=kernel, dilation=dilation, padding=padding)
    features = torch.randn(1, 6, 17, 7, 5)
    with torch.no_grad():
        expected = F.conv3d(features, convolution.weight, convolution.bias, padding=padding, dilation=dilation)
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            with patch.object(torch, "mkldnn_convolution", wraps=torch.mkldnn_convolution) as by_name:
                torch.testing.assert_close(convolution(features.to(memory_format=layout)), expected)
            assert by_name.call_count == torch.backends.mkldnn.is_available()
        with plain_convolutions(), patch.object(torch, "mkldnn_convolution") as by_name:
            assert torch.equal(convolution(features), expected)
        assert not by_name.called


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(("kernel", "padding"), [((3, 3, 3), 1), ((3, 3, 1), (1, 1, 0)), ((1, 3, 2), (0, 2, 0))])
def test_few_cells_are_multiplied_and_answer_as_torchs_convolution(layout, kernel, padding) -> None:
    torch.manual_seed(0)
    convolution = Conv3d(6, 5, kernel_size=kernel, padding=padding).to(memory_format=layout)
    features = torch.randn(2, 6, 4, 3, 2).to(memory_format=layout).requires_grad_()
    expected = F.conv3d(features, convolution.weight, convolution.bias, padding=padding)
    with patch.object(F, "linear", wraps=F.linear) as product:
        result = convolution(features)
    assert product.call_count == 1
    torch.testing.assert_close(result, expected)
    gradient = torch.randn_like(expected)
    given = (features, convolution.weight, convolution.bias)
    found, wanted = (torch.autograd.grad(answer, given, gradient) for answer in (result, expected))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("options", [{"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding_mode": "circular"}])
def test_no_other_convolution_is_a_product(options) -> None:
    torch.manual_seed(0)
    ours, torchs = (kind(4, 6, kernel_size=3, padding=2, **options) for kind in (Conv3d, torch.nn.Conv3d))
    torchs.load_state_dict(ours.state_dict())
    features = torch.randn(2, 4, 3, 4, 3)
    with patch.object(F, "linear") as product:
        torch.testing.assert_close(ours(features), torchs(features))
    assert not product.called


def test_float64_stays_float64() -> None:
    with torch.no_grad():
        assert Conv3d(2, 4, kernel_size=3).double()(torch.randn(1, 2, 5, 5, 7).double()).dtype is torch.float64
