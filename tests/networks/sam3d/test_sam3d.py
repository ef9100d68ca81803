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
    return none._replace(**{name: getattr(prompts, name) for name in Prompts._fields if kind in name})


def one_point(voxel, label):
    """A person's, of one volume."""
    none = Prompts.none(1)
    return none._replace(point_coords=torch.tensor([[voxel]]).float(), point_labels=torch.tensor([[label]]))


def as_earlier(logits):
    """What an earlier answer counts for: no class is ruled out, so that a correction can win."""
    return logits.log_softmax(dim=1).clamp(min=-3)


def distance_to(voxel, size=SIZE):
    """Chebyshev, voxels."""
    place = torch.meshgrid(*(torch.arange(extent) for extent in size), indexing="ij")
    return torch.stack([(axis - middle).abs() for axis, middle in zip(place, voxel, strict=True)]).amax(0)


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
    masks = torch.randn(2, CLASSES, *SIZE)
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
    orders = {"point": torch.randperm(7), "own": torch.randperm(5)}
    shuffled = prompts._replace(
        **{
            name: getattr(prompts, name)[:, order]
            for kind, order in orders.items()
            for name in Prompts._fields
            if kind in name
        }
    )
    torch.testing.assert_close(sam3d(image, prompts=prompts), sam3d(image, prompts=shuffled), atol=1e-5, rtol=1e-4)


def test_points_matter(sam3d, image, prompts):
    points = only(prompts, kind="point")
    moved = points._replace(point_coords=points.point_coords.roll(1, dims=-1))
    assert not torch.allclose(sam3d(image, prompts=points), sam3d(image, prompts=moved), atol=1e-4)


@pytest.mark.parametrize("kind", ["point", "own", "box", "stroke"])
def test_each_kind_of_prompt_changes_the_answer(sam3d, image, prompts, kind):
    with_them = sam3d(image, prompts=only(prompts, kind=kind))
    assert not torch.allclose(with_them, sam3d(image), atol=1e-3)


@pytest.mark.parametrize("fine_features", [True, False])
def test_a_mask_prompt_changes_the_answer(image, prompts, fine_features):
    model = build_sam3d(
        num_classes=CLASSES, in_channels=2, variant="tiny", reference_size=SIZE, fine_features=fine_features
    )
    masks = F.interpolate(5 * torch.randn(2, CLASSES, 3, 5, 2), size=SIZE)
    again = model(image, prompts=prompts, mask_inputs=masks)
    assert not torch.allclose(again, model(image, prompts=prompts), atol=1e-3)
    assert not torch.allclose(model(image, prompts=prompts, mask_inputs=masks.flip(2)), again, atol=1e-3)


class TestEarlierAnswer:
    @pytest.fixture
    def answer(self, sam3d, image):
        """Of a model that is sure: every voxel is of one class, far from the others."""
        return 20 * sam3d(image).detach()

    @pytest.mark.parametrize("kind", [None, "own"])
    def test_it_stays_exactly_where_nobody_said_anything(self, sam3d, image, prompts, answer, kind):
        given = None if kind is None else only(prompts, kind=kind)
        assert torch.equal(sam3d(image, prompts=given, mask_inputs=answer), as_earlier(answer))

    def test_a_click_changes_nothing_beyond_its_reach(self, sam3d, image, answer):
        """Two tokens of 8 voxels, and less than half a token for the grid of the reach."""
        voxel = (5, 3, 11)
        given = one_point(voxel, 1)
        after = sam3d(image[:1], prompts=given, mask_inputs=answer[:1])[0]
        moved = (after != as_earlier(answer)[0]).any(dim=0)
        distance = distance_to(voxel)
        assert not moved[distance > 16 + 3].any()
        assert (distance > 16 + 3).sum() > 24 * 16 * 16
        assert moved[distance <= 8].all()  # which a token away has full weight

    def test_it_changes_around_what_is_asked_alone(self, sam3d, image, answer):
        """Two points are known, one of them is new; around that one all is as if both were new."""
        old, new = (5, 3, 3), (19, 36, 12)
        both = one_point(old, 1)._replace(
            point_coords=torch.tensor([[old, new]]).float(), point_labels=torch.tensor([[1, 0]])
        )
        size = image.shape[2:]
        embedding, sam3d = sam3d.encode(image[:1]), sam3d.eval()

        def decode(asked):
            return sam3d.decode(
                embedding, image_size=size, prompts=both, mask_inputs=answer[:1], asked=asked
            ).logits.detach()[0]

        every, latest = decode(None), decode(one_point(new, 0))
        before = as_earlier(answer)[0]
        moved = (latest != before).any(dim=0)
        assert moved[distance_to(new) <= 8].all()
        assert not moved[distance_to(new) > 16 + 3].any()
        assert (every != before).any(dim=0)[distance_to(old) <= 8].all()
        near = (distance_to(new) <= 8) & (distance_to(old) > 16 + 3)
        torch.testing.assert_close(latest[:, near], every[:, near], rtol=0, atol=1e-5)

    @pytest.mark.parametrize("sureness", [1.0, 20.0])
    @pytest.mark.parametrize("label", range(CLASSES))
    def test_a_click_raises_its_class_at_once(self, sam3d, image, label, sureness):
        """Before anything is learned; of an answer that is not sure of another class, the click's class wins."""
        voxel = (12, 21, 6)
        start = torch.zeros(CLASSES)
        start[(label + 1) % CLASSES] = sureness
        start = start.view(1, CLASSES, 1, 1, 1).expand(1, CLASSES, *SIZE)
        after = sam3d(image[:1], prompts=one_point(voxel, label), mask_inputs=start)[0]
        assert sureness > 1 or after[(slice(None), *voxel)].argmax() == label
        gained = (after - as_earlier(start)[0]).movedim(0, -1)[voxel]
        others = [other for other in range(CLASSES) if other != label]
        assert gained[label] > 2
        assert gained[label] > 2 + gained[others].max()

    def test_so_does_a_scribble_along_its_line(self, sam3d, image, prompts, answer):
        """A line of class 2 runs through the first volume."""
        start = answer.clone()
        start[:, 2] = start.amin(dim=1) - 5
        after = sam3d(image, prompts=only(prompts, kind="stroke"), mask_inputs=start)
        for voxel in prompts.stroke_coords[0].long().tolist():
            assert after[(0, slice(None), *voxel)].argmax() == 2
        assert torch.equal(after[1], as_earlier(start)[1])  # nothing was said of the second

    def test_a_box_may_change_all_that_it_holds_and_nothing_else(self, sam3d, image, answer):
        box = torch.tensor([[[[4.0, 8, 2], [15, 31, 9]]]])
        given = Prompts.none(1)._replace(boxes=box, box_labels=torch.tensor([[1]]))
        moved = (sam3d(image[:1], prompts=given, mask_inputs=answer[:1])[0] != as_earlier(answer)[0]).any(dim=0)
        assert moved[4:16, 8:32, 2:10].all()
        rim = torch.ones(SIZE, dtype=torch.bool)
        rim[3:17, 7:33, 1:11] = False  # its cells at 1/2 are interpolated
        assert not moved[rim].any()

    def test_it_is_the_mean_log_probability_to_the_tokens(self, sam3d, image, prompts):
        kept = []
        sam3d.prompt_encoder.register_forward_pre_hook(
            lambda *call: kept.append(call[-1]["mask_inputs"]), with_kwargs=True
        )
        logits = (3 * torch.randn(2, CLASSES, *SIZE)).requires_grad_()
        sam3d(image, prompts=prompts, mask_inputs=logits).sum().backward()
        assert logits.grad is None
        (masks,) = kept
        assert masks.shape == (2, CLASSES, *HALF)
        cube = logits[1, :, 2:4, 6:8, 10:12].log_softmax(0).clamp(min=-3).mean(dim=(1, 2, 3))
        torch.testing.assert_close(masks[1, :, 1, 3, 5], cube)

    def test_no_class_is_ruled_out(self, sam3d, image):
        certain = torch.tensor([0.0, 400.0, -400.0]).view(1, 3, 1, 1, 1).expand(2, 3, *SIZE)
        assert sam3d(image, mask_inputs=certain)[0, :, 0, 0, 0].tolist() == [-3, 0, -3]

    @pytest.mark.parametrize("size", [HALF, (24, 40, 17)])
    def test_another_size_is_refused(self, sam3d, image, size):
        with pytest.raises(ValueError, match=r"mask_inputs \(3, .*\) must be \(3, 24, 40, 16\)"):
            sam3d(image, mask_inputs=torch.zeros(2, CLASSES, *size))


@pytest.mark.parametrize("part", ["point_labels", "own_labels", "box_labels", "stroke_labels"])
def test_pads_alone_are_no_prompt_on_the_maps(sam3d, prompts, part):
    padded = prompts._replace(**{part: torch.full_like(getattr(prompts, part), -1)})
    maps, without = (sam3d.maps(each, None, size=SIZE) for each in (padded, prompts))
    name = {"box_labels": "boxes", "own_labels": "own"}.get(part, "points")
    assert getattr(maps, name).sum() < getattr(without, name).sum()
    nothing = sam3d.maps(only(padded, kind=part.split("_")[0]), None, size=SIZE)
    assert nothing.previous is None
    assert not any(each.any() for each in nothing if each is not None)


def test_a_point_of_less_weight_is_lower_on_the_map(sam3d):
    """The model's own; a person's is as high as can be, and alone reaches an earlier answer."""
    prompts = one_point((20, 31, 3), 1)._replace(
        own_coords=torch.tensor([[[5.0, 7, 11]]]), own_labels=torch.tensor([[2]]), own_weights=torch.tensor([[0.25]])
    )
    maps = sam3d.maps(prompts, None, size=SIZE)
    assert maps.own.max() == maps.own[0, 2, 5, 7, 11] == 0.25
    assert maps.points.max() == maps.points[0, 1, 20, 31, 3] == 1
    assert not maps.own[:, 1].any()
    assert maps.far.flatten(2).any(dim=2).tolist() == [[False, True, False]]


def test_a_click_reaches_two_tokens(sam3d):
    """On every second voxel, falling with the distance."""
    coords, labels = torch.tensor([[[9.0, 21, 5]]]), torch.tensor([[1]])
    far = sam3d.far(coords, labels, size=SIZE)
    assert far.shape == (1, CLASSES, *HALF)
    assert far[0, 1, 4, 10, 2] == far.max() == 1
    assert far[0, 1, 4, 2:19, 2].tolist() == pytest.approx([1 - abs(step) / 8 for step in range(-8, 9)])


def test_gradients_reach_every_parameter(sam3d, image, prompts):
    embedding = sam3d.encode(image)
    for masks in (None, torch.randn(2, CLASSES, *SIZE)):  # no_mask_embed, then mask_downscaling
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


@pytest.mark.parametrize("earlier", [False, True])
def test_bf16_autocast_is_finite_and_near(sam3d, image, prompts, earlier):
    masks = torch.randn(2, CLASSES, *SIZE) if earlier else None
    exact = sam3d(image, prompts=prompts, mask_inputs=masks)
    with torch.autocast("cpu", torch.bfloat16):
        logits = sam3d(image, prompts=prompts, mask_inputs=masks)
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
            **{
                name: torch.minimum(getattr(prompts, name), last)
                for name in ("point_coords", "own_coords", "boxes", "stroke_coords")
            }
        )
        answer = model(image)
        logits = model(image, prompts=inside, mask_inputs=answer)
        assert logits.shape == (2, CLASSES, *size)
        assert logits.isfinite().all()
        assert not torch.allclose(logits, as_earlier(answer), atol=1e-3)

    def test_a_voxel_is_as_many_times_thicker_as_its_axis_is_halved_less(self):
        assert thick_sam3d().relative_spacing == (1, 1, 8)

    def test_a_ball_stays_in_its_slice(self):
        model = thick_sam3d()
        maps = model.maps(one_point((9, 7, 3), 1), None, size=THICK_SIZE)
        points = maps.points[0, 1]
        assert points.any(dim=0).any(dim=0).tolist() == [False] * 3 + [True] + [False] * 3
        assert (points[5:14, 7, 3] > 0).tolist() == [False] + [True] * 7 + [False]  # 4 voxels in the plane
        # A token is one slice: a click reaches into the next ones, not beyond.
        assert maps.far.shape == (1, CLASSES, 12, 20, 7)
        assert maps.far[0, 1].any(dim=0).any(dim=0).tolist() == [False] * 2 + [True] * 3 + [False] * 2

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
