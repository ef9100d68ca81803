import pytest
import torch
from torch.nn import functional as F

from aps_components.networks.sam3d import PromptEncoder3d, Sam3d, build_sam3d

SIZE, CLASSES = (24, 40, 16), 3
HALF = (12, 20, 8)


def test_forward_is_encode_decode_and_upsample(sam3d, image, points, boxes):
    logits = sam3d(image, points=points, boxes=boxes)
    assert logits.shape == (2, CLASSES, *SIZE)
    output = sam3d.decode(sam3d.encode(image), image_size=SIZE, points=points, boxes=boxes)
    assert output.low_res_logits.shape == (2, CLASSES, *HALF)
    assert output.iou_predictions.shape == (2, CLASSES)
    expected = F.interpolate(output.low_res_logits, size=SIZE, mode="trilinear")
    torch.testing.assert_close(logits, expected)


def test_works_without_prompts(sam3d, image):
    assert sam3d(image).isfinite().all()


def test_two_items_are_two_batches_of_one(sam3d, image, points, boxes):
    masks = torch.randn(2, CLASSES, *HALF)
    together = sam3d(image, points=points, boxes=boxes, mask_inputs=masks)
    for index in range(2):
        one = slice(index, index + 1)
        alone = sam3d(
            image[one],
            points=(points[0][one], points[1][one]),
            boxes=(boxes[0][one], boxes[1][one]),
            mask_inputs=masks[one],
        )
        torch.testing.assert_close(together[one], alone, atol=1e-4, rtol=1e-4)


def test_the_order_of_points_does_not_matter(sam3d, image, points):
    order = torch.randperm(7)
    shuffled = (points[0][:, order], points[1][:, order])
    torch.testing.assert_close(sam3d(image, points=points), sam3d(image, points=shuffled), atol=1e-5, rtol=1e-4)


def test_points_matter(sam3d, image, points):
    moved = (points[0].roll(1, dims=-1), points[1])
    assert not torch.allclose(sam3d(image, points=points), sam3d(image, points=moved), atol=1e-4)


def test_gradients_reach_every_parameter(image, points, boxes):
    torch.manual_seed(0)
    model = build_sam3d(
        num_classes=CLASSES, in_channels=2, variant="tiny", reference_size=SIZE, high_res_channels=(5, 7)
    )
    features = (torch.randn(2, 5, 6, 10, 4), torch.randn(2, 7, *HALF))
    embedding = model.encode(image)
    for masks in (None, torch.randn(2, CLASSES, *HALF)):  # no_mask_embed, then mask_downscaling
        output = model.decode(
            embedding,
            image_size=SIZE,
            points=points,
            boxes=boxes,
            mask_inputs=masks,
            high_res_features=features,
        )
        loss = (output.low_res_logits * torch.randn_like(output.low_res_logits)).sum()
        (loss + output.iou_predictions.sum()).backward(retain_graph=True)
    without = [
        name
        for name, parameter in model.named_parameters()
        # a bias of all keys shifts every score of a query alike, so softmax gives it no gradient
        if not name.endswith("k_proj.bias") and (parameter.grad is None or parameter.grad.abs().max() == 0)
    ]
    assert without == []


def test_bf16_autocast_is_finite_and_near(sam3d, image, points, boxes):
    exact = sam3d(image, points=points, boxes=boxes)
    with torch.autocast("cpu", torch.bfloat16):
        logits = sam3d(image, points=points, boxes=boxes)
    logits.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in sam3d.parameters() if p.grad is not None)
    assert (logits.float() - exact).std() < 0.05 * exact.std()


def test_other_sizes_than_the_reference(sam3d):
    assert sam3d(torch.randn(1, 2, 16, 24, 56)).shape == (1, CLASSES, 16, 24, 56)


def test_size_not_divisible_by_the_stride_is_refused(sam3d):
    with pytest.raises(ValueError, match=r"\(24, 40, 12\) must be divisible by 8"):
        sam3d(torch.randn(1, 2, 24, 40, 12))
    with pytest.raises(ValueError, match="must be divisible by 8"):
        sam3d.decode(torch.randn(1, 32, 3, 5, 2), image_size=(24, 40, 15))


def test_embedding_of_another_size_is_refused(sam3d):
    with pytest.raises(ValueError, match=r"\(3, 5, 3\) must be \(3, 5, 2\)"):
        sam3d.decode(torch.randn(1, 32, 3, 5, 3), image_size=SIZE)


def test_parts_that_do_not_fit_are_refused(sam3d):
    narrow = PromptEncoder3d(embed_dim=16, num_classes=CLASSES)
    with pytest.raises(ValueError, match="out_channels 32 must be 16"):
        Sam3d(sam3d.image_encoder, narrow, sam3d.mask_decoder)
