"""What every Model A does, whichever network it is, on voxels of any shape."""

from pathlib import Path

import pytest
import torch

from aps_components.networks.residual_encoder import ResidualEncoderUNet
from aps_components.networks.vnet import VNet
from aps_components.uncertainty import draw_masks, monte_carlo_samples

B, C, D, H, W = 2, 3, 48, 32, 5
STRIDES = ((2, 2, 1),) * 4
KERNELS = ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3))
BACKBONES = [VNet, ResidualEncoderUNet]
MODEL = Path(__file__).parents[2] / "bundles" / "la" / "models" / "model.pt"


def make(kind, **changes):
    torch.manual_seed(0)
    settings = {"in_channels": 2, "num_classes": C, "filters": 4, "strides": STRIDES, "kernel_sizes": KERNELS}
    return kind(**settings | changes)


def make_image(*size):
    return torch.randn(B, 2, *(size or (D, H, W)), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", BACKBONES)
class TestBackbone:
    def test_thick_slices_stay_apart_down_to_the_bottom(self, kind):
        network = make(kind)
        assert network.stride == (16, 16, 1)
        features = network.encode(make_image())
        assert len(features) == len(network.feature_channels) == 5
        for level, (feature, channels) in enumerate(zip(features, network.feature_channels, strict=True)):
            assert feature.shape == (B, channels, D >> level, H >> level, W)
        output = network.decode(features)
        assert output.logits.shape == (B, C, D, H, W)
        assert output.variance.shape == (B, 1, D, H, W)
        assert (output.variance > 0).all()

    @pytest.mark.parametrize("size", [(24, 40, 5), (16, 56, 3)])
    def test_any_number_of_slices_and_unequal_strides(self, kind, size):
        network = make(kind, strides=[(2, 2, 1), (1, 2, 1), (2, 2, 1), (2, 1, 1)])
        assert network.stride == (8, 8, 1)
        assert network(make_image(*size)).logits.shape == (B, C, *size)

    def test_a_slice_sees_no_other_where_no_kernel_and_no_stride_joins_them(self, kind):
        network = make(kind, kernel_sizes=[(3, 3, 1)] * 5).eval()
        for module in network.modules():  # its statistics are of all slices
            if type(module).__name__ == "InstanceNorm":
                module.forward = lambda features: features
        image = make_image()
        changed = image.clone()
        changed[..., 3] += 1
        difference = (network(image).logits - network(changed).logits).abs().amax(dim=(0, 1, 2, 3))
        assert difference[3] > 0
        assert (difference[[0, 1, 2, 4]] == 0).all()

    def test_size_off_the_stride_is_refused_by_axis(self, kind):
        with pytest.raises(ValueError, match=r"\(40, 32, 5\) must be divisible by 16 x 16 x 1"):
            make(kind)(make_image(40, 32, 5))

    def test_a_mask_of_ones_is_no_dropout_and_a_mask_decides_in_training_too(self, kind):
        network, image = make(kind), make_image()
        features = network.eval().encode(image)
        plain = network.decode(features)
        ones = [torch.ones(1, channels, 1, 1, 1) for channels in network.dropout_channels]
        for training in (False, True):
            masked = network.train(training).decode(features, bottleneck_mask=ones[0], head_mask=ones[1])
            torch.testing.assert_close(masked.logits, plain.logits)
            torch.testing.assert_close(masked.variance, plain.variance)

    def test_a_dropped_channel_of_the_head_is_that_weight_at_zero(self, kind):
        network, image = make(kind).eval(), make_image()
        mask = torch.ones(1, network.dropout_channels[1], 1, 1, 1)
        mask[:, 1] = 0
        features = network.encode(image)
        masked = network.decode(features, head_mask=mask)
        with torch.no_grad():
            network.logits_head.weight[:, 1] = 0
        torch.testing.assert_close(masked.logits, network.decode(features).logits)

    def test_training_without_masks_draws_what_handed_masks_could_be(self, kind):
        """A dropout of 0.5 at the head alone: every channel counts double or not at all."""
        network, image = make(kind).train(), make_image()
        assert network.dropout_probabilities == (0.5, 0.5)
        first, second = network(image).logits, network(image).logits
        assert not torch.equal(first, second)

    def test_monte_carlo_samples_are_single_decodings(self, kind):
        network, image = make(kind).eval(), make_image()
        masks = draw_masks(network, samples=3, generator=torch.Generator().manual_seed(2))
        features = network.encode(image)
        with torch.no_grad():
            samples = monte_carlo_samples(network, features, masks)
            alone = network.decode(features, bottleneck_mask=masks.bottleneck[1], head_mask=masks.head[1])
        torch.testing.assert_close(samples.probabilities[1], alone.logits.softmax(dim=1), atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
    def test_every_weight_learns(self, kind, precision):
        network = make(kind, dropout=0.0).to(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            output = network(make_image())
        sum(logits.float().square().mean() for logits in (output.logits, *output.deep_logits)).backward()
        output_of_noise = network(make_image()).variance
        output_of_noise.sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


class TestResidualEncoder:
    def test_deep_logits_are_of_all_levels_but_the_finest_and_the_two_coarsest(self):
        network = make(ResidualEncoderUNet).train()
        shapes = [logits.shape for logits in network(make_image()).deep_logits]
        assert shapes == [(B, C, D // 2, H // 2, W), (B, C, D // 4, H // 4, W)]

    def test_there_are_none_where_nothing_is_learned(self):
        network, image = make(ResidualEncoderUNet), make_image()
        assert network.eval()(image).deep_logits == ()
        with torch.no_grad():
            assert network.train()(image).deep_logits == ()

    @pytest.mark.parametrize("levels", [3, 4, 6])
    def test_levels_follow_the_strides(self, levels):
        network = make(ResidualEncoderUNet, strides=[(2, 2, 1)] * levels, kernel_sizes=None).train()
        output = network(make_image(64, 64, 3))
        assert len(network.feature_channels) == levels + 1
        assert len(output.deep_logits) == levels - 2

    def test_widths_end_at_320(self):
        assert ResidualEncoderUNet(filters=32).feature_channels == (32, 64, 128, 256, 320)

    def test_fewer_strides_than_a_token_of_model_b_has_are_refused(self):
        with pytest.raises(ValueError, match="must be 3 or more triples"):
            make(ResidualEncoderUNet, strides=[(2, 2, 1)] * 2, kernel_sizes=None)


@pytest.mark.skipif(not MODEL.is_file(), reason="the weights of bundles/la are not here")
def test_the_shipped_weights_fit_the_default():
    weights = torch.load(MODEL, weights_only=True)
    prefix = "model_a."
    of_a = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    network = VNet(in_channels=1, num_classes=2)
    network.load_state_dict(of_a, strict=True)
    assert network(torch.zeros(1, 1, 32, 16, 16)).logits.isfinite().all()
