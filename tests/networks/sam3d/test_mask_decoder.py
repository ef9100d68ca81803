import pytest
import torch
from segment_anything.modeling.mask_decoder import MLP
from torch.nn import functional as F

from aps_components.networks.sam3d import ImageEmbedding, MaskDecoder3d, TwoWayTransformer3d
from aps_components.networks.sam3d.grid import ISOTROPIC_KERNELS
from aps_components.networks.sam3d.mask_decoder import ClassMlps, FinePath, PromptMaps

B, C, E, GRID = 2, 3, 16, (3, 5, 2)
QUARTER, HALF, SIZE = (6, 10, 4), (12, 20, 8), (24, 40, 16)


def _decoder(*, fine: bool = False) -> MaskDecoder3d:
    transformer = TwoWayTransformer3d(depth=2, embedding_dim=E, num_heads=2, mlp_dim=11)
    path = FinePath(
        in_channels=1,
        num_classes=C,
        image_channels=(7, 5),
        channels=(E // 8, E // 4),
        refining_channels=6,
        kernel_sizes=ISOTROPIC_KERNELS,
    )
    return MaskDecoder3d(E, transformer, num_classes=C, fine_path=path if fine else None)


def _inputs(*, grid=GRID) -> dict:
    return {
        "embedding": ImageEmbedding(torch.randn(B, E, *grid)),
        "image_pe": torch.randn(1, E, *grid),
        "sparse_prompt_embeddings": torch.randn(B, 7, E),
        "dense_prompt_embeddings": torch.randn(B, E, *grid),
    }


def _fine_inputs(*, grid=GRID) -> dict:
    half, size = (tuple(factor * extent for extent in grid) for factor in (4, 8))
    quarter = tuple(2 * extent for extent in grid)
    inputs = _inputs(grid=grid)
    fine = (torch.randn(B, 5, *quarter), torch.randn(B, 7, *half), torch.randn(B, 1, *size))
    maps = PromptMaps(torch.rand(B, C, *size), torch.zeros(B, C, *size), torch.rand(B, C, *half))
    return inputs | {"embedding": ImageEmbedding(inputs["embedding"].tokens, *fine), "maps": maps}


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


def test_shapes_with_a_fine_path():
    logits, iou = _decoder(fine=True)(**_fine_inputs())
    assert logits.shape == (B, C, *SIZE)
    assert logits.dtype == torch.float32
    assert iou.shape == (B, C)


@pytest.mark.parametrize(
    ("holder", "part"),
    [("embedding", "quarter"), ("embedding", "half"), ("embedding", "image")]
    + [("maps", part) for part in PromptMaps._fields],
)
def test_every_fine_input_matters(holder, part):
    decoder, inputs = _decoder(fine=True), _fine_inputs()
    logits, _ = decoder(**inputs)
    former = getattr(inputs[holder], part)
    changed = inputs[holder]._replace(**{part: former + torch.rand_like(former)})
    other, _ = decoder(**inputs | {holder: changed})
    assert not other.isclose(logits).all()


def test_a_fine_path_of_no_weight_interpolates():
    plain, fine, inputs = _decoder(), _decoder(fine=True), _fine_inputs()
    missing = fine.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing
    assert all(name.startswith("fine_path.") for name in missing)
    for parameter in fine.fine_path.parameters():
        torch.nn.init.zeros_(parameter)
    logits, iou = fine(**inputs)
    low, expected_iou = plain(
        **{key: value for key, value in inputs.items() if key != "maps"}
        | {"embedding": ImageEmbedding(inputs["embedding"].tokens)}
    )
    torch.testing.assert_close(logits, F.interpolate(low, size=SIZE, mode="trilinear"))
    torch.testing.assert_close(iou, expected_iou)


def test_a_click_acts_where_it_is_on_the_fine_path():
    """With the tokens held, a ball around one voxel changes the logits there and nowhere far away."""
    decoder, inputs = _decoder(fine=True), _fine_inputs(grid=(3, 5, 7))
    size = inputs["embedding"].image.shape[2:]
    ball = inputs["maps"].points.clone()
    ball[:, 1, 10:14, 11:15, 30:34] = 2.0  # higher than all that is there
    logits, _ = decoder(**inputs)
    clicked, _ = decoder(**inputs | {"maps": inputs["maps"]._replace(points=ball)})
    moved = (clicked - logits).abs().amax(dim=(0, 1))
    assert moved[12, 13, 32] > 1e-3
    place = torch.meshgrid(*(torch.arange(extent) for extent in size), indexing="ij")
    distance = torch.stack([(axis - middle).abs() for axis, middle in zip(place, (12, 13, 32), strict=True)]).amax(0)
    assert (distance > 16).any()
    assert (moved[distance > 16] == 0).all()


@pytest.mark.parametrize("made_for_them", [False, True])
def test_fine_features_must_be_as_the_decoder_was_made(made_for_them):
    inputs = _inputs() if made_for_them else _fine_inputs()
    with pytest.raises(ValueError, match="build both alike"):
        _decoder(fine=made_for_them)(**inputs)


def test_width_must_be_a_multiple_of_eight():
    with pytest.raises(ValueError, match="transformer_dim 20"):
        MaskDecoder3d(20, torch.nn.Identity(), num_classes=2)
