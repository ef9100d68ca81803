import pytest
import torch

from aps_components.networks.instance_norm import InstanceNorm

B, F, D, H, W = 3, 5, 7, 4, 6
FORMATS = (torch.contiguous_format, torch.channels_last_3d)


def pair(eps=1e-5):
    torch.manual_seed(0)
    ours, theirs = InstanceNorm(F, eps=eps), torch.nn.InstanceNorm3d(F, affine=True, eps=eps)
    with torch.no_grad():
        ours.weight.uniform_(0.5, 2.0)
        ours.bias.normal_()
    theirs.load_state_dict(ours.state_dict())  # which also holds the keys to be the same
    return ours, theirs


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("batch", [1, B])
@pytest.mark.parametrize("training", [True, False])
def test_values_and_gradients_are_torchs(memory_format, batch, training):
    ours, theirs = (norm.train(training) for norm in pair())
    scale = torch.arange(1.0, batch + 1).view(-1, 1, 1, 1, 1)  # items that batch statistics would mix up
    image = (torch.randn(batch, F, D, H, W) * scale + 10 * scale).to(memory_format=memory_format)
    outward = torch.randn(batch, F, D, H, W)
    results = []
    for norm in (ours, theirs):
        given = image.clone().requires_grad_()
        output = norm(given)
        output.backward(outward)
        results.append((output, given.grad, norm.weight.grad, norm.bias.grad))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch", [1, B])
def test_channels_last_stays(batch):
    norm, _ = pair()
    output = norm(torch.randn(batch, F, D, H, W).to(memory_format=torch.channels_last_3d))
    assert output.is_contiguous(memory_format=torch.channels_last_3d)


def test_epsilon_counts():
    image = 0.01 * torch.randn(1, F, D, H, W)
    ours, theirs = pair(eps=0.1)
    torch.testing.assert_close(ours(image), theirs(image))
    assert not torch.allclose(ours(image), pair(eps=1e-5)[0](image))


def test_bf16_keeps_its_type_and_is_near():
    ours, _ = pair()
    image = torch.randn(B, F, D, H, W)
    with torch.autocast("cpu", torch.bfloat16):
        near = ours(image.bfloat16())
    assert near.dtype == torch.bfloat16
    torch.testing.assert_close(near.float(), ours(image), atol=0.05, rtol=0.02)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_tracing_gives_the_same_function():
    ours, _ = pair()
    image = torch.randn(B, F, D, H, W)
    traced = torch.jit.trace(ours, image[:1])
    torch.testing.assert_close(traced(image), ours(image), atol=1e-5, rtol=1e-5)
