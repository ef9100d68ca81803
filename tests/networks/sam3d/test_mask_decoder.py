import pytest
import torch
from segment_anything.modeling.mask_decoder import MLP
from torch.nn import functional as F

from aps_components.networks.sam3d import ImageEmbedding, MaskDecoder3d, TwoWayTransformer3d
from aps_components.networks.sam3d.fine_path import GAIN, FinePath
from aps_components.networks.sam3d.grid import ISOTROPIC_KERNELS
from aps_components.networks.sam3d.mask_decoder import ClassMlps
from aps_components.networks.sam3d.prompt_maps import PromptMaps, highest, reach

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


def _fine_inputs(*, grid=GRID, earlier=False) -> dict:
    """With prompts everywhere, and an earlier answer or none."""
    half, size = (tuple(factor * extent for extent in grid) for factor in (4, 8))
    quarter = tuple(2 * extent for extent in grid)
    inputs = _inputs(grid=grid)
    fine = (torch.randn(B, 5, *quarter), torch.randn(B, 7, *half), torch.randn(B, 1, *size))
    points, own = torch.rand(2, B, C, *size)
    boxes = (torch.rand(B, C, *size) > 0.5).float()
    previous = torch.randn(B, C, *size).log_softmax(dim=1) if earlier else None
    maps = _with_marks(PromptMaps(points, own, boxes, previous, torch.rand(B, C, *half), points), boxes=boxes)
    return inputs | {"embedding": ImageEmbedding(inputs["embedding"].tokens, *fine), "maps": maps}


def _with_marks(maps: PromptMaps, *, far=None, boxes=None) -> PromptMaps:
    """The same maps with other balls and boxes, 0 by default for the boxes, and the reach that these have."""
    far = maps.far if far is None else far
    boxes = torch.zeros_like(maps.boxes) if boxes is None else boxes
    return maps._replace(far=far, boxes=boxes, reach=reach(far, boxes))


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


def _without_weight(decoder: MaskDecoder3d) -> MaskDecoder3d:
    """Its fine path gives nothing of its own."""
    for parameter in decoder.fine_path.parameters():
        torch.nn.init.zeros_(parameter)
    return decoder


@pytest.mark.parametrize("earlier", [False, True])
def test_shapes_with_a_fine_path(earlier):
    logits, iou = _decoder(fine=True)(**_fine_inputs(earlier=earlier))
    assert logits.shape == (B, C, *SIZE)
    assert logits.dtype == torch.float32
    assert iou.shape == (B, C)


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(
    ("holder", "part"),
    [("embedding", "quarter"), ("embedding", "half"), ("embedding", "image")]
    + [("maps", part) for part in PromptMaps._fields],
)
def test_every_fine_input_matters(holder, part, earlier):
    if part in ("previous", "far", "reach") and not earlier:
        pytest.skip("an earlier answer and how far it may change come together")
    decoder, inputs = _decoder(fine=True), _fine_inputs(earlier=earlier)
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
    logits, iou = _without_weight(fine)(**inputs)
    low, expected_iou = plain(
        **{key: value for key, value in inputs.items() if key != "maps"}
        | {"embedding": ImageEmbedding(inputs["embedding"].tokens)}
    )
    torch.testing.assert_close(logits, F.interpolate(low, size=SIZE, mode="trilinear"))
    torch.testing.assert_close(iou, expected_iou)


def test_an_earlier_answer_stays_where_there_is_nothing_to_correct():
    inputs = _fine_inputs(earlier=True)
    logits, _ = _without_weight(_decoder(fine=True))(**inputs)
    assert torch.equal(logits, inputs["maps"].previous)


@pytest.mark.parametrize(("near", "share"), [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (1.0, 1.0)])
def test_a_click_raises_the_logit_of_its_class_by_the_gain(near, share):
    decoder, inputs = _without_weight(_decoder(fine=True)), _fine_inputs(earlier=True)
    torch.nn.init.constant_(decoder.fine_path.gain, GAIN)
    maps = inputs["maps"]
    maps = _with_marks(maps, far=torch.full_like(maps.far, near))
    logits, _ = decoder(**inputs | {"maps": maps})
    torch.testing.assert_close(logits, maps.previous + share * GAIN * maps.points)


def test_a_correction_reaches_as_far_as_points_and_boxes_do():
    far, boxes = torch.zeros(1, C, *HALF), torch.zeros(1, C, *SIZE)
    far[0, 1, 3, 4, 5], far[0, 2, 3, 4, 5], far[0, 0, 3, 4, 6], far[0, 0, 3, 4, 7] = 0.1, 0.3, 0.5, 0.9
    boxes[0, 2, 8:11, 20, 14] = 1  # the last cell has one voxel of it
    expected = torch.zeros(1, 1, *HALF)
    expected[0, 0, 3, 4, 5:8] = torch.tensor([0.6, 1, 1])
    expected[0, 0, 4:6, 10, 7] = 1
    torch.testing.assert_close(reach(far, boxes), expected)


@pytest.mark.parametrize("cell", [(1, 1, 1), (2, 2, 2), (2, 2, 1), (3, 1, 4)])
def test_the_highest_of_each_cell(cell):
    maps = torch.randn(2, 3, 12, 6, 8)
    size = [extent // side for extent, side in zip(maps.shape[2:], cell, strict=True)]
    assert torch.equal(highest(maps, size), F.adaptive_max_pool3d(maps, size))


def test_nothing_changes_beyond_the_reach():
    """Exactly; a cell at 1/2 acts on its two voxels and, as it is interpolated, on one more at either side."""
    decoder, inputs = _decoder(fine=True), _fine_inputs(earlier=True)
    maps, far = inputs["maps"], torch.zeros(B, C, *HALF)
    far[0, 1, 4:7, 10:12, 3:5] = 0.6
    logits, _ = decoder(**inputs | {"maps": _with_marks(maps, far=far)})
    moved = (logits != maps.previous).any(dim=1)
    near = torch.zeros_like(moved)
    near[0, 7:15, 19:25, 5:11] = True
    assert moved[near].all()
    assert not moved[~near].any()


def test_no_gradient_reaches_the_earlier_answer_by_way_of_the_refinement():
    """What is added to the logits is no function of them that is learned through."""
    decoder, inputs = _decoder(fine=True), _fine_inputs()
    refine = decoder.fine_path.refine
    logits = torch.randn(B, C, *SIZE, requires_grad=True)
    added = refine(inputs["embedding"].image, logits, inputs["maps"].points)
    assert added.requires_grad
    added.sum().backward()
    assert logits.grad is None


@pytest.mark.parametrize(("earlier", "limit"), [(False, 16), (True, 22)])
def test_a_click_acts_where_it_is_on_the_fine_path(earlier, limit):
    """With the tokens held, a ball around one voxel changes the logits there and nowhere far away."""
    decoder, inputs = _decoder(fine=True), _fine_inputs(grid=(3, 5, 7), earlier=earlier)
    size = inputs["embedding"].image.shape[2:]
    ball = inputs["maps"].points.clone()
    ball[:, 1, 10:14, 11:15, 30:34] = 2.0  # higher than all that is there
    logits, _ = decoder(**inputs)
    clicked, _ = decoder(**inputs | {"maps": inputs["maps"]._replace(points=ball)})
    moved = (clicked - logits).abs().amax(dim=(0, 1))
    assert moved[12, 13, 32] > 1e-3
    place = torch.meshgrid(*(torch.arange(extent) for extent in size), indexing="ij")
    distance = torch.stack([(axis - middle).abs() for axis, middle in zip(place, (12, 13, 32), strict=True)]).amax(0)
    assert (distance > limit).any()
    assert (moved[distance > limit] == 0).all()


@pytest.mark.parametrize("made_for_them", [False, True])
def test_fine_features_must_be_as_the_decoder_was_made(made_for_them):
    inputs = _inputs() if made_for_them else _fine_inputs()
    with pytest.raises(ValueError, match="build both alike"):
        _decoder(fine=made_for_them)(**inputs)


def test_width_must_be_a_multiple_of_eight():
    with pytest.raises(ValueError, match="transformer_dim 20"):
        MaskDecoder3d(20, torch.nn.Identity(), num_classes=2)


@pytest.mark.parametrize(
    "marked", [(slice(9, 14), slice(17, 20), slice(0, 3)), (slice(30, 33),) * 3, (slice(None),) * 3]
)
def test_a_correction_of_a_part_is_that_of_the_whole(marked):
    """Cells 0 to 39 at 1/2: a mark inside, at the rim, everywhere; and a class that nobody marked."""
    decoder, inputs = _decoder(fine=True), _fine_inputs(grid=(10, 9, 10), earlier=True)
    maps = inputs["maps"]
    far = torch.zeros_like(maps.far)
    far[(1, 2, *marked)] = 0.4
    points = torch.zeros_like(maps.points)
    inputs["maps"] = _with_marks(maps._replace(points=points), far=far)
    with torch.no_grad():
        whole, part = (decoder.train(training)(**inputs)[0] for training in (True, False))
    assert not torch.equal(whole[1], maps.previous[1])
    torch.testing.assert_close(part, whole, rtol=0, atol=1e-5)


def test_a_box_is_corrected_as_a_part_too():
    decoder, inputs = _decoder(fine=True), _fine_inputs(grid=(10, 9, 10), earlier=True)
    maps = inputs["maps"]
    boxes = torch.zeros_like(maps.boxes)
    boxes[0, 1, 40:52, 3:9, 70:80] = 1
    points = torch.zeros_like(maps.points)
    inputs["maps"] = _with_marks(maps._replace(points=points), far=torch.zeros_like(maps.far), boxes=boxes)
    with torch.no_grad():
        whole, part = (decoder.train(training)(**inputs)[0] for training in (True, False))
    torch.testing.assert_close(part, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(part[1], maps.previous[1], rtol=0, atol=0)
