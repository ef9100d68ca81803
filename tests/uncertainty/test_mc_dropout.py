from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

from aps_components.networks.vnet import VNet
from aps_components.uncertainty import DropoutMasks, draw_masks, every, monte_carlo_samples

T, B, C, D, H, W = 5, 2, 3, 32, 48, 16


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_vnet(**changes):
    return VNet(**{"in_channels": 2, "num_classes": C, "filters": 4} | changes).eval()


@pytest.fixture
def vnet():
    return make_vnet()


@pytest.fixture
def image():
    return torch.randn(B, 2, D, H, W)


def seeded(number):
    return torch.Generator().manual_seed(number)


class LinearDecoder:
    """Logits linear in what the masks act on, so that the mean over all masks is known."""

    dropout_channels = (7, 4)
    dropout_probabilities = (0.5, 0.2)

    def decode(self, features, *, bottleneck_mask, head_mask):
        logits = (features[-1] * bottleneck_mask).sum(1, keepdim=True) + (features[0] * head_mask).sum(1, keepdim=True)
        return SimpleNamespace(logits=torch.cat([logits, -logits], 1), variance=logits**2 + 1)


@pytest.mark.parametrize("items", [1, B])
def test_one_batch_of_samples_equals_decoding_one_by_one(vnet, image, items):
    features, masks = vnet.encode(image), draw_masks(vnet, samples=T, items=items)
    samples = monte_carlo_samples(vnet, features, masks)
    assert samples.probabilities.shape == (T, B, C, D, H, W)
    assert samples.variance.shape == (T, B, 1, D, H, W)
    for t in range(T):
        for b in range(B):
            own = min(b, items - 1)
            decoded = vnet.decode(
                tuple(feature[b : b + 1] for feature in features),
                bottleneck_mask=masks.bottleneck[t, own : own + 1],
                head_mask=masks.head[t, own : own + 1],
            )
            torch.testing.assert_close(samples.probabilities[t, b], decoded.logits[0].softmax(0), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(samples.variance[t, b], decoded.variance[0], atol=1e-5, rtol=1e-4)


def test_encoder_never_runs_and_the_decoder_once(vnet, image):
    features, masks = vnet.encode(image), draw_masks(vnet, samples=T)
    with (
        patch.object(vnet, "encode") as encode,
        patch.object(vnet, "decode", wraps=vnet.decode) as decode,
    ):
        monte_carlo_samples(vnet, features, masks)
    assert encode.call_count == 0
    assert decode.call_count == 1
    assert decode.call_args.args[0][0].shape[0] == T * B


def test_in_inference_on_a_cpu_samples_are_decoded_one_after_another(vnet, image):
    features, masks = vnet.encode(image), draw_masks(vnet, samples=T, items=B)
    expected = monte_carlo_samples(vnet, features, masks)
    with torch.inference_mode(), patch.object(VNet, "decode", autospec=True, side_effect=VNet.decode) as decode:
        found = monte_carlo_samples(vnet, features, masks)
    assert [len(call.args[1][0]) for call in decode.call_args_list] == [B] * T
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_probabilities_sum_to_one_and_samples_differ(vnet, image):
    samples = monte_carlo_samples(vnet, vnet.encode(image), draw_masks(vnet, samples=T))
    torch.testing.assert_close(samples.probabilities.sum(2), torch.ones(T, B, D, H, W))
    assert (samples.probabilities.var(dim=0) > 0).any()
    assert (samples.variance > 0).all()


def test_one_seed_gives_one_set_of_masks(vnet):
    masks = draw_masks(vnet, samples=T, items=B, generator=seeded(3))
    for mask, again, other in zip(
        masks,
        draw_masks(vnet, samples=T, items=B, generator=seeded(3)),
        draw_masks(vnet, samples=T, items=B, generator=seeded(4)),
        strict=True,
    ):
        assert torch.equal(mask, again)
        assert not torch.equal(mask, other)


def test_a_generator_leaves_the_global_one_alone(vnet):
    before = torch.get_rng_state()
    draw_masks(vnet, samples=T, generator=seeded(3))
    assert torch.equal(torch.get_rng_state(), before)
    draw_masks(vnet, samples=T)
    assert not torch.equal(torch.get_rng_state(), before)


def test_shapes_of_masks(vnet):
    masks = draw_masks(vnet, samples=T, items=3)
    assert masks.bottleneck.shape == (T, 3, 64, 1, 1, 1)
    assert masks.head.shape == (T, 3, 4, 1, 1, 1)
    assert draw_masks(vnet, samples=T).head.shape == (T, 1, 4, 1, 1, 1)


def test_keep_rate_and_scale_of_each_mask():
    masks = draw_masks(LinearDecoder(), samples=1000, items=3)
    for mask, probability in zip(masks, (0.5, 0.2), strict=True):
        torch.testing.assert_close(mask.unique(), torch.tensor([0, 1 / (1 - probability)]))
        assert (mask > 0).float().mean().item() == pytest.approx(1 - probability, abs=0.02)  # over 4 deviations
        per_channel = (mask > 0).float().mean(dim=(0, 1)).flatten()
        assert (per_channel - (1 - probability)).abs().max() < 0.05
    assert not torch.equal(masks.bottleneck[:, 0], masks.bottleneck[:, 1])  # items draw their own


def test_stride_keeps_every_so_many_voxels(vnet, image):
    features, masks = vnet.encode(image), draw_masks(vnet, samples=2)
    whole = monte_carlo_samples(vnet, features, masks)
    for maps, all_maps in zip(monte_carlo_samples(vnet, features, masks, stride=3), whole, strict=True):
        assert maps.shape[3:] == (11, 16, 6)
        assert torch.equal(maps, all_maps[..., ::3, ::3, ::3])
    assert every(torch.arange(24).view(2, 3, 4), 2).tolist() == [[[0, 2], [8, 10]]]
    assert every(torch.arange(24).view(2, 3, 4), (1, 3, 2)).tolist() == [[[0, 2]], [[12, 14]]]


def test_no_dropout_makes_all_samples_alike(image):
    vnet = make_vnet(dropout=0.0)
    features, masks = vnet.encode(image), draw_masks(vnet, samples=2)
    assert all((mask == 1).all() for mask in masks)
    samples = monte_carlo_samples(vnet, features, masks)
    expected = vnet.decode(features).logits.softmax(1)
    for sample in samples.probabilities:
        torch.testing.assert_close(sample, expected)


def test_shared_masks_make_a_batch_of_two_two_batches_of_one(vnet, image):
    masks = draw_masks(vnet, samples=T, items=1)
    together = monte_carlo_samples(vnet, vnet.encode(image), masks)
    for b in range(B):
        alone = monte_carlo_samples(vnet, vnet.encode(image[b : b + 1]), masks)
        torch.testing.assert_close(together.probabilities[:, b], alone.probabilities[:, 0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.variance[:, b], alone.variance[:, 0], atol=1e-5, rtol=1e-4)


def test_batch_norm_stays_untouched_in_evaluation(image):
    vnet = make_vnet(norm="batch")
    before = {key: value.clone() for key, value in vnet.state_dict().items()}
    monte_carlo_samples(vnet, vnet.encode(image), draw_masks(vnet, samples=T))
    assert all(torch.equal(value, before[key]) for key, value in vnet.state_dict().items())
    assert not vnet.training


def test_mean_of_many_samples_is_the_whole_network():
    network = LinearDecoder()
    features = (torch.randn(B, 4, 2, 3, 1) / 10, torch.randn(B, 7, 2, 3, 1) / 10)
    samples = monte_carlo_samples(network, features, draw_masks(network, samples=20_000))
    logits = (samples.probabilities[:, :, 0] / samples.probabilities[:, :, 1]).log() / 2
    whole = network.decode(
        features, bottleneck_mask=torch.ones(1, 7, 1, 1, 1), head_mask=torch.ones(1, 4, 1, 1, 1)
    ).logits[:, 0]
    torch.testing.assert_close(logits.mean(0), whole, atol=0.02, rtol=0)
    # each kept channel x adds x^2 p / (1 - p) of variance
    spread = features[1].square().sum(1) + features[0].square().sum(1) * 0.25
    torch.testing.assert_close(logits.var(0), spread, atol=0.01, rtol=0.05)


def test_layout_of_samples_and_items():
    masks = DropoutMasks(torch.zeros(3, 1, 7, 1, 1, 1), torch.zeros(3, 1, 4, 1, 1, 1))
    masks.head[:, 0, 0, 0, 0, 0] = torch.tensor([1.0, 2.0, 3.0])
    features = (torch.tensor([10.0, 100.0]).view(2, 1, 1, 1, 1).expand(2, 4, 1, 1, 1), torch.zeros(2, 7, 1, 1, 1))
    variance = monte_carlo_samples(LinearDecoder(), features, masks).variance.flatten(1)
    torch.testing.assert_close(variance, torch.tensor([[10.0, 100], [20, 200], [30, 300]]).square() + 1)


def test_no_samples_are_refused(vnet):
    with pytest.raises(ValueError, match="Monte-Carlo samples 0 must be at least 1"):
        draw_masks(vnet, samples=0)
