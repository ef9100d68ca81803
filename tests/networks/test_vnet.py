import pytest
import torch
from torch import nn
from torch.nn import functional as F

from aps_components.networks.channel_dropout import ChannelDropout
from aps_components.networks.vnet import VNet

B, C, D, H, W = 2, 3, 32, 48, 16  # sizes that cannot be confused
NORMS = ("instance", "batch", "group")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_vnet(**changes):
    return VNet(**{"in_channels": 2, "num_classes": C, "filters": 4} | changes)


def make_image(batch=B, channels=2):
    return torch.randn(batch, channels, D, H, W)


def reference_vnet(weights, image):
    """The V-Net with instance norm and without dropout, written out: levels of 1, 2, 3, 3, 3 convolutions."""

    def norm(x, name):
        mean, var = x.mean((2, 3, 4), keepdim=True), x.var((2, 3, 4), keepdim=True, correction=0)
        scale, shift = (weights[f"{name}.{key}"].view(1, -1, 1, 1, 1) for key in ("weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def stage(x, name, count):
        y = x
        for index in range(count):
            y = F.conv3d(y, weights[f"{name}.{3 * index}.weight"], weights[f"{name}.{3 * index}.bias"], padding=1)
            y = norm(y, f"{name}.{3 * index + 1}")
            if index < count - 1:
                y = y.clamp_min(0)
        return (y + x if y.shape == x.shape else y).clamp_min(0)

    def resample(x, name, convolution):
        x = convolution(x, weights[f"{name}.0.weight"], weights[f"{name}.0.bias"], stride=2)
        return norm(x, f"{name}.1").clamp_min(0)

    levels = [stage(image, "encoder.0.layers", 1)]
    for level, count in ((1, 2), (2, 3), (3, 3), (4, 3)):
        levels.append(stage(resample(levels[-1], f"downs.{level - 1}", F.conv3d), f"encoder.{level}.layers", count))
    x = levels[4]
    for index, (level, count) in enumerate(((3, 3), (2, 3), (1, 2), (0, 1))):
        x = stage(resample(x, f"ups.{index}", F.conv_transpose3d) + levels[level], f"decoder.{index}.layers", count)
    logits, noise = (
        F.conv3d(x, weights[f"{head}_head.weight"], weights[f"{head}_head.bias"]) for head in ("logits", "variance")
    )
    return logits, noise.exp().log1p()


def test_every_value_equals_an_independent_implementation():
    vnet = make_vnet().eval()
    for name, parameter in vnet.named_parameters():
        if parameter.ndim == 1 and "head" not in name:  # norms start as ones and zeros, which hides a mix-up
            nn.init.uniform_(parameter, 0.5, 1.5)
    image = make_image()
    logits, variance = reference_vnet(vnet.state_dict(), image)
    output = vnet(image)
    torch.testing.assert_close(output.logits, logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.variance, variance, atol=1e-4, rtol=1e-4)


def test_parameter_count_of_the_published_width():
    def convolution(kernel, in_channels, channels):
        return kernel**3 * in_channels * channels + channels + 2 * channels  # weight, bias, norm

    widths, counts = (16, 32, 64, 128, 256), (1, 2, 3, 3, 3)
    encoder = sum(count * convolution(3, width, width) for count, width in zip(counts[1:], widths[1:], strict=True))
    decoder = sum(count * convolution(3, width, width) for count, width in zip(counts[:4], widths[:4], strict=True))
    resampling = sum(convolution(2, w, 2 * w) + convolution(2, 2 * w, w) for w in widths[:4])
    heads = 16 * 2 + 2 + 16 + 1
    expected = convolution(3, 1, 16) + encoder + decoder + resampling + heads
    count = sum(parameter.numel() for parameter in VNet(filters=16, in_channels=1, num_classes=2).parameters())
    assert count == expected
    assert round(count / 1e6, 1) == 9.4


@pytest.mark.parametrize("norm", NORMS)
def test_shapes_and_levels(norm):
    vnet = make_vnet(norm=norm)
    image = make_image()
    features = vnet.encode(image)
    for level, feature in enumerate(features):
        assert feature.shape == (B, 4 * 2**level, D >> level, H >> level, W >> level)
    output = vnet.decode(features)
    assert output.logits.shape == (B, C, D, H, W)
    assert output.variance.shape == (B, 1, D, H, W)
    assert output.variance.dtype == torch.float32
    assert (output.variance > 0).all()


def test_noise_starts_small():
    vnet = make_vnet()
    nn.init.zeros_(vnet.variance_head.weight)
    variance = vnet(make_image(1)).variance
    torch.testing.assert_close(variance, torch.full_like(variance, 0.0485873516), atol=1e-6, rtol=0)  # softplus(-3)


@pytest.mark.parametrize("norm", NORMS)
def test_evaluation_repeats_itself_and_is_decode_after_encode(norm):
    vnet, image = make_vnet(norm=norm).eval(), make_image()
    output = vnet(image)
    for again in (vnet(image), vnet.decode(vnet.encode(image))):
        assert torch.equal(output.logits, again.logits)
        assert torch.equal(output.variance, again.variance)


def test_decoding_leaves_the_features_alone():
    vnet, image = make_vnet(), make_image()
    features = vnet.encode(image)
    before = [feature.clone() for feature in features]
    vnet.decode(features)
    assert all(torch.equal(a, b) for a, b in zip(features, before, strict=True))


def test_training_passes_differ_and_encoding_does_not():
    vnet, image = make_vnet(), make_image()
    assert not torch.allclose(vnet(image).logits, vnet(image).logits)
    assert all(torch.equal(a, b) for a, b in zip(vnet.encode(image), vnet.encode(image), strict=True))


def test_without_dropout_training_is_evaluation():
    vnet, image = make_vnet(dropout=0.0), make_image()
    torch.testing.assert_close(vnet.train()(image).logits, vnet.eval()(image).logits)


@pytest.mark.parametrize("norm", ["instance", "group"])
@pytest.mark.parametrize("training", [True, False])
def test_two_items_are_two_batches_of_one(norm, training):
    vnet, image = make_vnet(norm=norm, dropout=0.0).train(training), make_image()
    together = vnet(image)
    for index in range(B):
        alone = vnet(image[index : index + 1])
        torch.testing.assert_close(together.logits[index], alone.logits[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.variance[index], alone.variance[0], atol=1e-4, rtol=1e-4)


def test_batch_norm_couples_the_items_in_training_only():
    vnet, image = make_vnet(norm="batch", dropout=0.0), make_image() * torch.tensor([1.0, 5.0]).view(2, 1, 1, 1, 1)
    assert not torch.allclose(vnet(image).logits[0], vnet(image[:1]).logits[0], atol=1e-2)
    vnet.eval()
    torch.testing.assert_close(vnet(image).logits[0], vnet(image[:1]).logits[0], atol=1e-4, rtol=1e-4)


def test_masks_decide_in_training_and_in_evaluation():
    vnet, image = make_vnet(), make_image()
    features = vnet.encode(image)
    masks = {"bottleneck_mask": torch.ones(1, 64, 1, 1, 1), "head_mask": torch.ones(1, 4, 1, 1, 1)}
    with_ones = vnet.decode(features, **masks)
    torch.testing.assert_close(with_ones.logits, vnet.eval().decode(features).logits)
    masks["head_mask"] = torch.zeros(1, 4, 1, 1, 1)  # only the biases of the heads are left
    nothing = vnet.decode(features, **masks)
    torch.testing.assert_close(nothing.logits, vnet.logits_head.bias.view(1, C, 1, 1, 1).expand(B, C, D, H, W))
    masks = {"bottleneck_mask": torch.zeros(1, 64, 1, 1, 1), "head_mask": torch.ones(1, 4, 1, 1, 1)}
    shallow = vnet.decode(features, **masks).logits
    expected = vnet.decode((*features[:4], torch.zeros_like(features[4]))).logits
    torch.testing.assert_close(shallow, expected)


def test_dropout_acts_on_the_channels_it_names():
    vnet = make_vnet(dropout=0.25)
    assert vnet.dropout_channels == (64, 4)
    assert vnet.dropout_probabilities == (0.25, 0.25)


@pytest.mark.parametrize("probability", [0.25, 0.5])
def test_channel_dropout_has_the_statistics_of_torch(probability):
    features = torch.full((40, 50, 2, 3, 5), 3.0)
    kept_value = 3 / (1 - probability)
    for dropout in (ChannelDropout(probability), nn.Dropout3d(probability)):
        dropped = dropout(features)
        assert torch.equal(dropped, dropped[..., :1, :1, :1].expand_as(dropped))  # whole channels
        channels = dropped[..., 0, 0, 0]
        torch.testing.assert_close(channels.unique(), torch.tensor([0, kept_value]))
        # 2,000 draws: four standard deviations are below 0.045
        assert (channels > 0).float().mean().item() == pytest.approx(1 - probability, abs=0.045)
        assert dropped.mean().item() == pytest.approx(3, abs=3 * 0.09)
        assert not torch.equal(channels[0], channels[1])  # every item draws its own
    assert torch.equal(ChannelDropout(probability).eval()(features), features)
    assert torch.equal(ChannelDropout(0.0)(features), features)


def test_channel_dropout_multiplies_a_given_mask():
    mask = torch.tensor([0.0, 2.0, 0.5]).view(1, 3, 1, 1, 1)
    features = torch.randn(2, 3, 4, 5, 6)
    for dropout in (ChannelDropout(0.5).train(), ChannelDropout(0.5).eval()):
        dropped = dropout(features, mask)
        assert torch.equal(dropped[:, 0], torch.zeros_like(dropped[:, 0]))
        assert torch.equal(dropped[:, 1], 2 * features[:, 1])
        assert torch.equal(dropped[:, 2], features[:, 2] / 2)
    assert dropout(features.bfloat16(), mask).dtype == torch.bfloat16


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_reach_every_parameter(norm):
    vnet = make_vnet(norm=norm, dropout=0.2)
    output = vnet(make_image())
    ((output.logits * torch.randn_like(output.logits)).sum() + output.variance.sum()).backward()
    gradients = {name: parameter.grad for name, parameter in vnet.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []
    # The norm behind a convolution takes its bias out again, so that bias has no true gradient.
    assert [name for name, gradient in gradients.items() if name.endswith("weight") and not gradient.any()] == []
    assert gradients["variance_head.bias"].any()
    assert gradients["logits_head.bias"].any()


@pytest.mark.parametrize("norm", NORMS)
def test_recomputing_changes_no_value_and_no_gradient(norm):
    image, results = make_image(), []
    for recompute in (True, False):
        torch.manual_seed(3)
        vnet = make_vnet(norm=norm, recompute=recompute)
        output = vnet(image)  # with dropout, whose draw must be the same again
        (output.logits.square().mean() + output.variance.square().mean()).backward()
        results.append((*output, *(parameter.grad for parameter in vnet.parameters())))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_running_statistics_see_every_batch_once():
    image, states = make_image(), []
    for recompute in (True, False):
        torch.manual_seed(3)
        vnet = make_vnet(norm="batch", recompute=recompute)
        vnet(image).logits.sum().backward()
        states.append(vnet.state_dict())
    torch.testing.assert_close(*states)
    assert {value.item() for key, value in states[0].items() if key.endswith("num_batches_tracked")} == {1}


def test_each_head_has_its_own_gradient():
    vnet = make_vnet()
    output = vnet(make_image(1))
    output.variance.sum().backward(retain_graph=True)
    assert vnet.logits_head.weight.grad is None
    assert vnet.encoder[0].layers[0].weight.grad.any()
    output.logits.sum().backward()
    assert vnet.logits_head.weight.grad.any()


@pytest.mark.parametrize("norm", NORMS)
def test_bf16_autocast_is_near_float32(norm):
    vnet, image = make_vnet(norm=norm).eval(), make_image()
    exact = vnet(image)
    with torch.autocast("cpu", torch.bfloat16):
        near = vnet(image)
    assert near.variance.dtype == torch.float32
    assert (near.logits.float() - exact.logits).std() < 0.05 * exact.logits.std()
    torch.testing.assert_close(near.variance, exact.variance, atol=0.05, rtol=0.05)


def test_channels_last_changes_nothing():
    vnet, image = make_vnet().eval(), make_image()
    expected = vnet(image).logits
    vnet.to(memory_format=torch.channels_last_3d)
    logits = vnet(image.to(memory_format=torch.channels_last_3d)).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 2, 32, 48, 24), (1, 2, 30, 48, 16)])
def test_size_off_the_stride_is_refused(shape):
    size = r"\({}, {}, {}\)".format(*shape[2:])
    with pytest.raises(ValueError, match=f"image size {size} must be divisible by 16"):
        make_vnet()(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 1, 32, 48, 16), (2, 32, 48, 16)])
def test_image_of_other_channels_is_refused(shape):
    with pytest.raises(ValueError, match=r"must be \[B, 2, D, H, W\]"):
        make_vnet()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "layer"}, "norm 'layer' must be one of"),
        ({"num_classes": 1}, "num_classes 1 must be at least 2"),
        ({"dropout": 1.0}, r"dropout probability 1.0 must lie in \[0, 1\)"),
        ({"dropout": -0.1}, "dropout probability -0.1"),
    ],
)
def test_value_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_vnet(**changes)
