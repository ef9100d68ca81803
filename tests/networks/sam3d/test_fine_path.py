import pytest
import torch
from decoders import HALF, SIZE, B, C, fine_inputs, make_decoder, with_marks
from torch.nn import functional as F

from aps_components.networks.sam3d import ImageEmbedding, MaskDecoder3d
from aps_components.networks.sam3d.fine_path import GAIN
from aps_components.networks.sam3d.prompt_maps import PromptMaps


def _without_weight(decoder: MaskDecoder3d) -> MaskDecoder3d:
    """Its fine path gives nothing of its own."""
    for parameter in decoder.fine_path.parameters():
        torch.nn.init.zeros_(parameter)
    return decoder


@pytest.mark.parametrize("earlier", [False, True])
def test_shapes_with_a_fine_path(earlier):
    logits, iou = make_decoder(fine=True)(**fine_inputs(earlier=earlier))
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
    decoder, inputs = make_decoder(fine=True), fine_inputs(earlier=earlier)
    logits, _ = decoder(**inputs)
    former = getattr(inputs[holder], part)
    changed = inputs[holder]._replace(**{part: former + torch.rand_like(former)})
    other, _ = decoder(**inputs | {holder: changed})
    assert not other.isclose(logits).all()


def test_a_fine_path_of_no_weight_interpolates():
    plain, fine, inputs = make_decoder(), make_decoder(fine=True), fine_inputs()
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
    inputs = fine_inputs(earlier=True)
    logits, _ = _without_weight(make_decoder(fine=True))(**inputs)
    assert torch.equal(logits, inputs["maps"].previous)


@pytest.mark.parametrize(("near", "share"), [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (1.0, 1.0)])
def test_a_click_raises_the_logit_of_its_class_by_the_gain(near, share):
    decoder, inputs = _without_weight(make_decoder(fine=True)), fine_inputs(earlier=True)
    torch.nn.init.constant_(decoder.fine_path.gain, GAIN)
    maps = inputs["maps"]
    maps = with_marks(maps, far=torch.full_like(maps.far, near))
    logits, _ = decoder(**inputs | {"maps": maps})
    torch.testing.assert_close(logits, maps.previous + share * GAIN * maps.points)


def test_nothing_changes_beyond_the_reach():
    """Exactly; a cell at 1/2 acts on its two voxels and, as it is interpolated, on one more at either side."""
    decoder, inputs = make_decoder(fine=True), fine_inputs(earlier=True)
    maps, far = inputs["maps"], torch.zeros(B, C, *HALF)
    far[0, 1, 4:7, 10:12, 3:5] = 0.6
    logits, _ = decoder(**inputs | {"maps": with_marks(maps, far=far)})
    moved = (logits != maps.previous).any(dim=1)
    near = torch.zeros_like(moved)
    near[0, 7:15, 19:25, 5:11] = True
    assert moved[near].all()
    assert not moved[~near].any()


def test_no_gradient_reaches_the_earlier_answer_by_way_of_the_refinement():
    """What is added to the logits is no function of them that is learned through."""
    decoder, inputs = make_decoder(fine=True), fine_inputs()
    refine = decoder.fine_path.refine
    logits = torch.randn(B, C, *SIZE, requires_grad=True)
    added = refine(inputs["embedding"].image, logits, inputs["maps"].points)
    assert added.requires_grad
    added.sum().backward()
    assert logits.grad is None


@pytest.mark.parametrize(("earlier", "limit"), [(False, 16), (True, 22)])
def test_a_click_acts_where_it_is_on_the_fine_path(earlier, limit):
    """With the tokens held, a ball around one voxel changes the logits there and nowhere far away."""
    decoder, inputs = make_decoder(fine=True), fine_inputs(grid=(3, 5, 7), earlier=earlier)
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


@pytest.mark.parametrize(
    "marked", [(slice(9, 14), slice(17, 20), slice(0, 3)), (slice(30, 33),) * 3, (slice(None),) * 3]
)
def test_a_correction_of_a_part_is_that_of_the_whole(marked):
    """Cells 0 to 39 at 1/2: a mark inside, at the rim, everywhere; and a class that nobody marked."""
    decoder, inputs = make_decoder(fine=True), fine_inputs(grid=(10, 9, 10), earlier=True)
    maps = inputs["maps"]
    far = torch.zeros_like(maps.far)
    far[(1, 2, *marked)] = 0.4
    points = torch.zeros_like(maps.points)
    inputs["maps"] = with_marks(maps._replace(points=points), far=far)
    with torch.no_grad():
        whole, part = (decoder.train(training)(**inputs)[0] for training in (True, False))
    assert not torch.equal(whole[1], maps.previous[1])
    torch.testing.assert_close(part, whole, rtol=0, atol=1e-5)


def test_a_box_is_corrected_as_a_part_too():
    decoder, inputs = make_decoder(fine=True), fine_inputs(grid=(10, 9, 10), earlier=True)
    maps = inputs["maps"]
    boxes = torch.zeros_like(maps.boxes)
    boxes[0, 1, 40:52, 3:9, 70:80] = 1
    points = torch.zeros_like(maps.points)
    inputs["maps"] = with_marks(maps._replace(points=points), far=torch.zeros_like(maps.far), boxes=boxes)
    with torch.no_grad():
        whole, part = (decoder.train(training)(**inputs)[0] for training in (True, False))
    torch.testing.assert_close(part, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(part[1], maps.previous[1], rtol=0, atol=0)
