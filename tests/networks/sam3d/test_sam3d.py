import pytest
import torch
from torch.nn import functional as F

from aps_components.networks.sam3d import ImageEmbedding, PromptEncoder3d, Prompts, Sam3d, build_sam3d

SIZE, CLASSES = (24, 40, 16), 3
HALF = (12, 20, 8)
THICK = {"strides": ((2, 2, 1),) * 3, "kernel_sizes": ((3, 3, 1),) * 3}  # tokens of 8 x 8 x 1 voxels
THICK_SIZE = (24, 40, 7)


def thick_sam3d() -> Sam3d:
    return build_sam3d(num_classes=CLASSES, in_channels=2, variant="tiny", reference_size=THICK_SIZE, **THICK)


def only(prompts, *, kind):
    """One kind of the prompts."""
    none = Prompts.none(len(prompts.point_labels))
    if kind == "points":
        return none._replace(**{name: getattr(prompts, name) for name in Prompts._fields if "point" in name})
    return none._replace(**{name: getattr(prompts, name) for name in Prompts._fields if kind in name})


def rows_of(prompts, rows):
    return Prompts(*(None if part is None else part[rows] for part in prompts))


def test_forward_is_encode_and_decode(sam3d, image, prompts):
    logits = sam3d(image, prompts=prompts)
    assert logits.shape == (2, CLASSES, *SIZE)
    output = sam3d.decode(sam3d.encode(image), image_size=SIZE, prompts=prompts)
    assert output.iou_predictions.shape == (2, CLASSES)
    assert torch.equal(logits, output.logits)


def test_without_fine_features_logits_are_interpolated(image, prompts):
    model = build_sam3d(num_classes=CLASSES, in_channels=2, variant="tiny", reference_size=SIZE, fine_features=False)
    kept = []
    model.mask_decoder.register_forward_hook(lambda *call: kept.append(call[-1][0]))
    embedding = model.encode(image)
    assert embedding[1:] == (None, None, None)
    output = model.decode(embedding, image_size=SIZE, prompts=prompts)
    (low,) = kept
    assert low.shape == (2, CLASSES, *HALF)
    torch.testing.assert_close(output.logits, F.interpolate(low, size=SIZE, mode="trilinear"))


def test_works_without_prompts(sam3d, image):
    assert torch.equal(sam3d(image), sam3d(image, prompts=Prompts.none(2)))
    assert sam3d(image).isfinite().all()


def test_two_items_are_two_batches_of_one(sam3d, image, prompts):
    masks = torch.randn(2, CLASSES, *HALF)
    together = sam3d(image, prompts=prompts, mask_inputs=masks)
    for index in range(2):
        one = slice(index, index + 1)
        alone = sam3d(image[one], prompts=rows_of(prompts, one), mask_inputs=masks[one])
        torch.testing.assert_close(together[one], alone, atol=1e-4, rtol=1e-4)


def test_some_volumes_of_an_embedding(sam3d, image, prompts):
    """A click on one volume of several costs one decoding."""
    embedding, rows = sam3d.encode(image), torch.tensor([1])
    together = sam3d.decode(embedding, image_size=SIZE, prompts=prompts).logits
    alone = sam3d.decode(embedding.of(rows), image_size=SIZE, prompts=rows_of(prompts, rows)).logits
    torch.testing.assert_close(together[rows], alone, atol=1e-4, rtol=1e-4)


def test_the_order_of_points_does_not_matter(sam3d, image, prompts):
    order = torch.randperm(7)
    shuffled = prompts._replace(
        **{name: getattr(prompts, name)[:, order] for name in Prompts._fields if "point" in name}
    )
    torch.testing.assert_close(sam3d(image, prompts=prompts), sam3d(image, prompts=shuffled), atol=1e-5, rtol=1e-4)


def test_points_matter(sam3d, image, prompts):
    points = only(prompts, kind="points")
    moved = points._replace(point_coords=points.point_coords.roll(1, dims=-1))
    assert not torch.allclose(sam3d(image, prompts=points), sam3d(image, prompts=moved), atol=1e-4)


@pytest.mark.parametrize("kind", ["points", "box", "stroke"])
def test_each_kind_of_prompt_changes_the_answer(sam3d, image, prompts, kind):
    with_them = sam3d(image, prompts=only(prompts, kind=kind))
    assert not torch.allclose(with_them, sam3d(image), atol=1e-3)


def test_a_mask_prompt_changes_the_answer(sam3d, image):
    answer = sam3d(image)
    masks = sam3d.as_mask_inputs(answer)
    again = sam3d(image, mask_inputs=masks)
    assert not torch.allclose(again, answer, atol=1e-3)
    assert not torch.allclose(sam3d(image, mask_inputs=masks.flip(2)), again, atol=1e-3)


@pytest.mark.parametrize("part", ["point_labels", "box_labels", "stroke_labels"])
def test_pads_alone_are_no_prompt_on_the_maps(sam3d, prompts, part):
    padded = prompts._replace(**{part: torch.full_like(getattr(prompts, part), -1)})
    maps, without = (sam3d.maps(each, None, size=SIZE) for each in (padded, prompts))
    name = "boxes" if part == "box_labels" else "points"
    assert getattr(maps, name).sum() < getattr(without, name).sum()
    nothing = sam3d.maps(only(padded, kind=part.split("_")[0].replace("point", "points")), None, size=SIZE)
    assert not any(each.any() for each in nothing)


def test_a_point_of_less_weight_is_lower_on_the_map(sam3d):
    prompts = Prompts(torch.tensor([[[5.0, 7, 11]]]), torch.tensor([[2]]), torch.tensor([[0.25]]))
    points = sam3d.maps(prompts, None, size=SIZE).points
    assert points.max() == points[0, 2, 5, 7, 11] == 0.25


def test_a_mask_prompt_is_the_mean_log_probability(sam3d):
    logits = 3 * torch.randn(2, CLASSES, *SIZE, requires_grad=True)
    masks = sam3d.as_mask_inputs(logits)
    assert masks.shape == (2, CLASSES, *HALF)
    assert not masks.requires_grad
    cube = logits[1, :, 2:4, 6:8, 10:12].log_softmax(0).clamp(min=-8).mean(dim=(1, 2, 3))
    torch.testing.assert_close(masks[1, :, 1, 3, 5], cube)
    certain = torch.tensor([0.0, 400.0, -400.0]).view(1, 3, 1, 1, 1).expand(1, 3, *SIZE)
    assert sam3d.as_mask_inputs(certain)[0, :, 0, 0, 0].tolist() == [-8, 0, -8]


def test_gradients_reach_every_parameter(sam3d, image, prompts):
    embedding = sam3d.encode(image)
    for masks in (None, torch.randn(2, CLASSES, *HALF)):  # no_mask_embed, then mask_downscaling
        output = sam3d.decode(embedding, image_size=SIZE, prompts=prompts, mask_inputs=masks)
        loss = (output.logits * torch.randn_like(output.logits)).sum()
        (loss + output.iou_predictions.sum()).backward(retain_graph=True)
    without = [
        name
        for name, parameter in sam3d.named_parameters()
        # A bias of all keys shifts every score of a query alike, so softmax gives it no gradient, and a norm over
        # voxels takes the bias before it out again.
        if not name.endswith(
            ("k_proj.bias", *(f"stem.to_{level}.{place}.bias" for level in ("half", "quarter") for place in (0, 3)))
        )
        and (parameter.grad is None or parameter.grad.abs().max() == 0)
    ]
    assert without == []


def test_bf16_autocast_is_finite_and_near(sam3d, image, prompts):
    exact = sam3d(image, prompts=prompts)
    with torch.autocast("cpu", torch.bfloat16):
        logits = sam3d(image, prompts=prompts)
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in sam3d.parameters() if p.grad is not None)
    assert (logits - exact).std() < 0.05 * exact.std()


def test_other_sizes_than_the_reference(sam3d):
    assert sam3d(torch.randn(1, 2, 16, 24, 56)).shape == (1, CLASSES, 16, 24, 56)


class TestThickSlices:
    @pytest.mark.parametrize("size", [THICK_SIZE, (16, 24, 5)])
    def test_all_prompts_at_full_size(self, prompts, size):
        model, image = thick_sam3d(), torch.randn(2, 2, *size)
        last = torch.tensor(size) - 1
        inside = prompts._replace(
            **{name: torch.minimum(getattr(prompts, name), last) for name in ("point_coords", "boxes", "stroke_coords")}
        )
        answer = model(image)
        half = (size[0] // 2, size[1] // 2, size[2])
        assert model.as_mask_inputs(answer).shape == (2, CLASSES, *half)
        logits = model(image, prompts=inside, mask_inputs=model.as_mask_inputs(answer))
        assert logits.shape == (2, CLASSES, *size)
        assert logits.isfinite().all()
        assert not torch.allclose(logits, answer, atol=1e-3)

    def test_a_ball_stays_in_its_slice(self):
        model = thick_sam3d()
        prompts = Prompts(torch.tensor([[[9.0, 7, 3]]]), torch.tensor([[1]]), torch.ones(1, 1))
        points = model.maps(prompts, None, size=THICK_SIZE).points[0, 1]
        assert points.any(dim=0).any(dim=0).tolist() == [False] * 3 + [True] + [False] * 3
        assert (points[5:14, 7, 3] > 0).tolist() == [False] + [True] * 7 + [False]  # 4 voxels in the plane

    def test_without_fine_features(self, prompts):
        model = build_sam3d(
            num_classes=CLASSES,
            in_channels=2,
            variant="tiny",
            reference_size=THICK_SIZE,
            fine_features=False,
            **THICK,
        )
        assert model(torch.randn(2, 2, *THICK_SIZE), prompts=only(prompts, kind="box")).shape[2:] == THICK_SIZE

    def test_a_size_between_the_strides_is_refused(self):
        with pytest.raises(ValueError, match=r"\(24, 44, 7\) must be divisible by \(8, 8, 1\)"):
            thick_sam3d()(torch.randn(1, 2, 24, 44, 7))


def test_size_not_divisible_by_the_stride_is_refused(sam3d):
    with pytest.raises(ValueError, match=r"\(24, 40, 12\) must be divisible by \(8, 8, 8\)"):
        sam3d(torch.randn(1, 2, 24, 40, 12))
    with pytest.raises(ValueError, match="must be divisible by"):
        sam3d.decode(ImageEmbedding(torch.randn(1, 32, 3, 5, 2)), image_size=(24, 40, 15))


def test_embedding_of_another_size_is_refused(sam3d):
    with pytest.raises(ValueError, match=r"\(3, 5, 3\) must be \(3, 5, 2\)"):
        sam3d.decode(ImageEmbedding(torch.randn(1, 32, 3, 5, 3)), image_size=SIZE)


def test_parts_that_do_not_fit_are_refused(sam3d):
    narrow = PromptEncoder3d(embed_dim=16, num_classes=CLASSES)
    with pytest.raises(ValueError, match="out_channels 32 must be 16"):
        Sam3d(sam3d.image_encoder, narrow, sam3d.mask_decoder)
    thick = PromptEncoder3d(embed_dim=32, num_classes=CLASSES, strides=THICK["strides"])
    with pytest.raises(ValueError, match=r"patch_size \(8, 8, 8\) must be \(8, 8, 1\)"):
        Sam3d(sam3d.image_encoder, thick, sam3d.mask_decoder)
