import pytest
import torch
from decoders import HALF, B, C, fine_inputs, make_decoder, plain_inputs
from segment_anything.modeling.mask_decoder import MLP

from aps_components.networks.sam3d import MaskDecoder3d
from aps_components.networks.sam3d.mask_decoder import ClassMlps


def test_shapes_and_range():
    logits, iou = make_decoder()(**plain_inputs())
    assert logits.shape == (B, C, *HALF)
    assert iou.shape == (B, C)
    assert ((iou > 0) & (iou < 1)).all()


def test_class_mlps_equal_one_official_mlp_per_class():
    official = [MLP(5, 7, 3, 3) for _ in range(C)]
    ours = ClassMlps(C, input_dim=5, hidden_dim=7, output_dim=3)
    with torch.no_grad():
        for layer in range(3):
            ours.weights[layer].copy_(torch.stack([mlp.layers[layer].weight for mlp in official]))
            ours.biases[layer].copy_(torch.stack([mlp.layers[layer].bias for mlp in official]))
    x = torch.randn(B, C, 5)
    expected = torch.stack([mlp(x[:, index]) for index, mlp in enumerate(official)], dim=1)
    torch.testing.assert_close(ours(x), expected)


def test_logits_are_the_product_of_hypernetwork_and_upscaled_embedding():
    decoder, inputs = make_decoder(), plain_inputs()
    kept = {}
    decoder.output_upscaling.register_forward_hook(lambda *call: kept.update(upscaled=call[-1]))
    decoder.output_hypernetworks_mlps.register_forward_hook(lambda *call: kept.update(hyper=call[-1]))
    logits, _ = decoder(**inputs)
    expected = torch.einsum("bce,bedhw->bcdhw", kept["hyper"], kept["upscaled"])
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("made_for_them", [False, True])
def test_fine_features_must_be_as_the_decoder_was_made(made_for_them):
    inputs = plain_inputs() if made_for_them else fine_inputs()
    with pytest.raises(ValueError, match="build both alike"):
        make_decoder(fine=made_for_them)(**inputs)


def test_width_must_be_a_multiple_of_eight():
    with pytest.raises(ValueError, match="transformer_dim 20"):
        MaskDecoder3d(20, torch.nn.Identity(), num_classes=2)
