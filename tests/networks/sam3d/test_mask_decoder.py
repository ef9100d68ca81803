import pytest
import torch
from segment_anything.modeling.mask_decoder import MLP

from aps_components.networks.sam3d import MaskDecoder3d, TwoWayTransformer3d
from aps_components.networks.sam3d.mask_decoder import ClassMlps

B, C, E, GRID = 2, 3, 16, (3, 5, 2)
QUARTER, HALF = (6, 10, 4), (12, 20, 8)


def _decoder(high_res_channels=None) -> MaskDecoder3d:
    transformer = TwoWayTransformer3d(depth=2, embedding_dim=E, num_heads=2, mlp_dim=11)
    return MaskDecoder3d(E, transformer, num_classes=C, high_res_channels=high_res_channels)


def _inputs() -> dict:
    return {
        "image_embedding": torch.randn(B, E, *GRID),
        "image_pe": torch.randn(1, E, *GRID),
        "sparse_prompt_embeddings": torch.randn(B, 7, E),
        "dense_prompt_embeddings": torch.randn(B, E, *GRID),
    }


def test_shapes_and_range():
    logits, iou = _decoder()(**_inputs())
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
    decoder, inputs = _decoder(), _inputs()
    kept = {}
    decoder.output_upscaling.register_forward_hook(lambda *call: kept.update(upscaled=call[-1]))
    decoder.output_hypernetworks_mlps.register_forward_hook(lambda *call: kept.update(hyper=call[-1]))
    logits, _ = decoder(**inputs)
    expected = torch.einsum("bce,bedhw->bcdhw", kept["hyper"], kept["upscaled"])
    torch.testing.assert_close(logits, expected)


def test_high_res_features_are_added_at_both_scales():
    decoder, inputs = _decoder((5, 7)), _inputs()
    features = (torch.randn(B, 5, *QUARTER), torch.randn(B, 7, *HALF))
    logits, _ = decoder(**inputs, high_res_features=features)
    assert logits.shape == (B, C, *HALF)
    for index in (0, 1):
        changed = list(features)
        changed[index] = changed[index] + torch.randn_like(changed[index])
        other, _ = decoder(**inputs, high_res_features=tuple(changed))
        assert not other.isclose(logits).all()


def test_high_res_features_of_no_weight_change_nothing():
    plain, fine, inputs = _decoder(), _decoder((5, 7)), _inputs()
    assert len(fine.load_state_dict(plain.state_dict(), strict=False).missing_keys) == 4
    features = (torch.randn(B, 5, *QUARTER), torch.randn(B, 7, *HALF))
    for projection in fine.high_res_projections:
        torch.nn.init.zeros_(projection.weight)
        torch.nn.init.zeros_(projection.bias)
    torch.testing.assert_close(fine(**inputs, high_res_features=features), plain(**inputs))


@pytest.mark.parametrize("made_for_them", [False, True])
def test_high_res_features_must_be_as_the_decoder_was_made(made_for_them):
    features = None if made_for_them else (torch.zeros(B, 5, *QUARTER), torch.zeros(B, 7, *HALF))
    with pytest.raises(ValueError, match="set high_res_channels to match"):
        _decoder((5, 7) if made_for_them else None)(**_inputs(), high_res_features=features)


def test_width_must_be_a_multiple_of_eight():
    with pytest.raises(ValueError, match="transformer_dim 20"):
        MaskDecoder3d(20, torch.nn.Identity(), num_classes=2)
