from unittest.mock import patch

import pytest
import torch

from aps_components.models import autocast, build_auto_prompt_seg, mean_of_probabilities
from aps_components.networks.feature_fusion import ConcatenationFusion
from aps_components.networks.voxel_shape import TOKEN_LEVELS
from aps_components.prompts import PointPrompts
from aps_components.uncertainty import MonteCarloSamples, decouple, draw_masks, every, monte_carlo_samples

B, C, D, H, W = 2, 2, 32, 48, 16  # sizes that cannot be confused


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_model(**changes):
    settings = {"num_classes": C, "roi_size": (D, H, W), "filters": 4, "sam_variant": "tiny"}
    # An untrained Model A is sure of nothing: what is a candidate has to be less than usual.
    prompts = {"points_per_class": 6, "radius": 4, "min_probability": 0.5} | changes.pop("prompts", {})
    return build_auto_prompt_seg(**settings | {"prompts": prompts} | changes)


def make_image(batch=B, channels=1, size=(D, H, W)):
    return torch.randn(batch, channels, *size)


def train(model, image):
    output = model.train().training_forward(image)
    loss = sum(
        (part * torch.randn_like(part)).sum()
        for part in (output.logits_a, output.variance, output.logits_b, output.iou_predictions)
    )
    loss.backward()
    return output


def without_gradient(model, *, expected=()):
    """Parameters whose gradient is missing or zero, less those that can have none and the ``expected`` ones."""

    def excused(name):
        # A bias of all keys shifts every score of a query alike; A's norms take the biases before them out again.
        biases = ("k_proj.bias",) if name.startswith("model_b.") else ("0.bias", "3.bias", "6.bias")
        return name.endswith(biases) or any(part in name for part in expected)

    return [
        name
        for name, parameter in model.named_parameters()
        if not excused(name) and (parameter.grad is None or not parameter.grad.any())
    ]


UNEQUAL_WEIGHTS = {"epistemic_weight": 0.9, "aleatoric_weight": 0.1}
# Boxes, and an earlier answer to correct.
PROMPTS_NEVER_GIVEN = ("corner_embeddings", "mask_downscaling", "corrector", "refine_correction", "fine_path.gain")


class TestInference:
    @pytest.mark.parametrize("predictor", ["a", "b", "average"])
    @torch.no_grad()
    def test_forward_is_the_predictors_logits(self, predictor):
        model, image = make_model(predictor=predictor).eval(), make_image()
        logits, prediction = model(image), model.predict(image)
        assert logits.shape == (B, C, D, H, W)
        assert logits.dtype == torch.float32
        assert torch.equal(logits, prediction.logits)
        if predictor == "average":
            mean = (prediction.logits_a.softmax(1) + prediction.logits_b.softmax(1)) / 2
            torch.testing.assert_close(logits.softmax(1), mean)
        else:
            assert torch.equal(logits, getattr(prediction, f"logits_{predictor}"))
        assert not torch.allclose(prediction.logits_a, prediction.logits_b, atol=1e-2)

    @torch.no_grad()
    def test_predictor_a_leaves_model_b_out(self):
        model, image = make_model(predictor="a").eval(), make_image()
        with patch.object(model.model_b, "encode") as encode:
            logits = model(image)
        assert encode.call_count == 0
        assert torch.equal(logits, model.model_a(image).logits)

    @torch.no_grad()
    def test_shapes_of_a_prediction(self):
        prediction = make_model().eval().predict(make_image())
        assert prediction.logits_a.shape == prediction.logits_b.shape == (B, C, D, H, W)
        assert prediction.epistemic.shape == prediction.aleatoric.shape == (B, 1, D, H, W)
        assert prediction.iou_predictions.shape == (B, C)
        assert prediction.prompts.point_coords.shape == (B, 6 * C, 3)
        assert (prediction.prompts.point_labels >= 0).any()
        assert all(part.dtype == torch.float32 for part in prediction[:6])
        assert ((prediction.iou_predictions > 0) & (prediction.iou_predictions < 1)).all()

    @torch.no_grad()
    def test_repeats_itself_and_leaves_the_global_generator(self):
        model, image = make_model().eval(), make_image()
        before = torch.get_rng_state()
        first, second = model.predict(image), model.predict(image)
        assert torch.equal(torch.get_rng_state(), before)
        for one, other in zip(first[:6], second[:6], strict=True):
            assert torch.equal(one, other)

    @pytest.mark.parametrize("norm", ["instance", "batch", "group"])
    @torch.no_grad()
    def test_company_in_the_batch_does_not_matter(self, norm):
        model, image = make_model(norm=norm).eval(), make_image()
        together = model.predict(image)
        for b in range(B):
            # The same points: rounding, which the size of a batch changes, may choose others on a plateau.
            points = PointPrompts(*(part[b : b + 1] for part in together.prompts))
            with patch.object(model, "prompt_generator", return_value=points) as generator:
                alone = model.predict(image[b : b + 1])
            assert generator.call_args.args[0].shape[0] == 1
            for mine, other in zip(together[:6], alone[:6], strict=True):
                torch.testing.assert_close(mine[b], other[0], atol=1e-4, rtol=1e-3)

    @torch.no_grad()
    def test_samples_come_from_its_own_seed(self):
        model, image = (
            make_model(mc_samples=3, prompts=UNEQUAL_WEIGHTS, uncertainty_form="variance").eval(),
            make_image(),
        )
        masks = draw_masks(model.model_a, samples=3, generator=torch.Generator().manual_seed(model.mc_seed))
        samples = monte_carlo_samples(model.model_a, model.model_a.encode(image), masks)
        expected = decouple(*samples, form="variance")
        prediction = model.predict(image)
        torch.testing.assert_close(prediction.epistemic, expected.epistemic)
        torch.testing.assert_close(prediction.aleatoric, expected.aleatoric)
        thinned = [part[..., ::2, ::2, ::2] for part in samples]
        points = model.prompt_generator(thinned[0].mean(0), **decouple(*thinned, form="variance")._asdict(), stride=2)
        torch.testing.assert_close(prediction.prompts.scores, points.scores)
        assert torch.equal(prediction.prompts.point_coords, points.point_coords)
        model.mc_seed += 1
        assert not torch.allclose(model.predict(image).epistemic, expected.epistemic)

    @torch.no_grad()
    def test_encoders_run_once(self):
        model, image = make_model(mc_samples=4).eval(), make_image()
        a, b = model.model_a, model.model_b
        with patch.object(a, "encode", wraps=a.encode) as of_a, patch.object(b, "encode", wraps=b.encode) as of_b:
            model(image)
        assert (of_a.call_count, of_b.call_count) == (1, 1)

    @torch.no_grad()
    def test_prompts_and_features_of_a_reach_b(self):
        image = make_image()
        model = make_model(fusion="cafa").eval()
        logits = model.predict(image).logits_b
        model.prompt_generator.points_per_class = 1
        assert not torch.allclose(model.predict(image).logits_b, logits, atol=1e-5)
        model.prompt_generator.points_per_class = 6
        assert torch.equal(model.predict(image).logits_b, logits)
        model.model_a.downs[2][1].weight *= 1.5  # A's features at 1/8, which the fusion takes
        assert not torch.allclose(model.predict(image).logits_b, logits, atol=1e-5)

    @torch.no_grad()
    def test_points_are_in_voxels_whatever_the_prompt_stride(self):
        model = make_model(predictor="a").eval()
        probabilities, variance = torch.full((1, 1, C, D, H, W), 0.1), torch.ones(1, 1, 1, D, H, W)
        probabilities[..., 1, 24, 40, 8] = probabilities[..., 0, 4, 16, 12] = 0.9
        for stride in (1, 2, 4):
            model.prompt_stride = (stride,) * 3
            prompts, _ = model._prompts(MonteCarloSamples(every(probabilities, stride), every(variance, stride)))
            assert prompts.point_coords[0, [0, 6]].tolist() == [[4, 16, 12], [24, 40, 8]]

    @pytest.mark.parametrize("size", [(16, 32, 64), (48, 32, 32)])
    @torch.no_grad()
    def test_other_sizes_than_the_patch(self, size):
        prediction = make_model().eval().predict(make_image(1, size=size))
        assert prediction.logits.shape == (1, C, *size)
        assert prediction.logits.isfinite().all()
        for axis in range(3):
            assert prediction.prompts.point_coords[..., axis].max() < size[axis]

    @torch.no_grad()
    def test_bf16_is_near_float32(self):
        model, image = make_model(prompts={"points_per_class": 0}).eval(), make_image()
        exact = model(image)
        with autocast("cpu", "bf16"):
            near = model(image)
        assert near.dtype == torch.float32
        assert (near - exact).std() < 0.05 * exact.std()

    def test_mean_of_probabilities(self):
        a, b = 5 * torch.randn(2, B, 4, 3, 5, 7)
        logits = mean_of_probabilities(a, b)
        torch.testing.assert_close(logits.softmax(1), (a.softmax(1) + b.softmax(1)) / 2)
        torch.testing.assert_close(logits.exp().sum(1), torch.ones(B, 3, 5, 7))  # log-probabilities
        torch.testing.assert_close(mean_of_probabilities(a, a), a.log_softmax(1))
        far = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1, 1)
        torch.testing.assert_close(mean_of_probabilities(far, -far).softmax(1), torch.full_like(far, 0.5))


class TestTraining:
    @pytest.mark.parametrize(("samples", "stride"), [(1, 2), (2, 1), (4, 2)])
    def test_its_output_is_the_first_of_the_samples(self, samples, stride):
        model, image = make_model(mc_samples=samples, uncertainty_form="variance").train(), make_image()
        model.prompt_stride = (stride,) * 3
        a = model.model_a
        with (
            patch.object(a, "encode", wraps=a.encode) as encode,
            patch.object(a, "decode", wraps=a.decode) as decode,
            patch.object(model, "prompt_generator", wraps=model.prompt_generator) as generator,
        ):
            torch.manual_seed(7)
            output = model.training_forward(image)
        assert encode.call_count == 1
        batches = [call.args[0][0].shape[0] for call in decode.call_args_list]
        assert batches == ([B] if samples == 1 else [B, (samples - 1) * B])

        torch.manual_seed(7)
        masks = draw_masks(a, samples=samples, items=B)
        expected = monte_carlo_samples(a, a.encode(image), masks)
        torch.testing.assert_close(output.logits_a.softmax(1), expected.probabilities[0])
        torch.testing.assert_close(output.variance, expected.variance[0])
        expected = MonteCarloSamples(*(part[..., ::stride, ::stride, ::stride] for part in expected))
        uncertainty = decouple(*expected, form="variance")
        torch.testing.assert_close(output.uncertainty.epistemic, uncertainty.epistemic)
        torch.testing.assert_close(output.uncertainty.aleatoric, uncertainty.aleatoric)
        torch.testing.assert_close(generator.call_args.args[0], expected.probabilities.mean(0))
        assert generator.call_args.kwargs["epistemic"] is output.uncertainty.epistemic
        assert generator.call_args.kwargs["aleatoric"] is output.uncertainty.aleatoric
        assert generator.call_args.kwargs["stride"] == (stride,) * 3

    def test_shapes(self):
        output = make_model().train().training_forward(make_image())
        assert output.logits_a.shape == output.logits_b.shape == (B, C, D, H, W)
        assert output.variance.shape == (B, 1, D, H, W)
        assert output.iou_predictions.shape == (B, C)
        half = (D // 2, H // 2, W // 2)  # prompts are looked for on every second voxel
        assert output.uncertainty.epistemic.shape == output.uncertainty.aleatoric.shape == (B, 1, *half)
        assert output.prompts.point_labels.shape == (B, 6 * C)
        carries = [part.requires_grad for part in output[:4]]
        assert carries == [True] * 4
        assert not any(part.requires_grad for part in (*output.prompts, *output.uncertainty))

    def test_masks_may_be_given(self):
        model, image = make_model(mc_samples=3).train(), make_image()
        torch.manual_seed(1)
        drawn = model.training_forward(image)
        torch.manual_seed(1)
        given = model.training_forward(image, masks=draw_masks(model.model_a, samples=3, items=B))
        for name in ("logits_a", "variance", "logits_b", "iou_predictions"):
            assert torch.equal(getattr(drawn, name), getattr(given, name)), name
        assert torch.equal(drawn.prompts.point_coords, given.prompts.point_coords)

    def test_dropout_is_on(self):
        model, image = make_model().train(), make_image()
        assert not torch.allclose(model.training_forward(image).logits_a, model.training_forward(image).logits_a)

    def test_model_a_alone(self):
        model, image = make_model(mc_samples=3).train(), make_image()
        a = model.model_a
        with patch.object(model.model_b, "encode") as of_b, patch.object(a, "decode", wraps=a.decode) as decode:
            torch.manual_seed(7)
            alone = model.training_forward(image, with_b=False)
        assert of_b.call_count == 0
        assert decode.call_count == 1
        assert alone[2:] == (None, None, None, None, (), ())
        torch.manual_seed(7)
        together = model.training_forward(image)
        assert torch.equal(alone.logits_a, together.logits_a)
        assert torch.equal(alone.variance, together.variance)
        (alone.logits_a.sum() + alone.variance.sum()).backward()
        assert without_gradient(a) == []
        assert all(parameter.grad is None for parameter in model.model_b.parameters())

    @pytest.mark.parametrize("fusion", ["cafa", "concatenation"])
    def test_gradients_reach_every_parameter(self, fusion):
        # 40 slots and a wide radius: some are padded, which teaches the padding's embedding
        prompts = {"points_per_class": 40, "radius": 7, "min_probability": 0.01}
        model = make_model(fusion=fusion, fusion_dropped=0.0, prompts=prompts)
        labels = train(model, make_image()).prompts.point_labels
        assert set(labels.unique().tolist()) == {-1, 0, 1}
        assert without_gradient(model, expected=PROMPTS_NEVER_GIVEN) == []
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        assert {type(p.grad) for n, p in model.named_parameters() if "corner_embeddings" in n} == {type(None)}

    def test_each_loss_reaches_its_model(self):
        model, image = make_model(fusion="cafa").train(), make_image()
        output = model.training_forward(image)
        output.logits_a.sum().backward(retain_graph=True)
        assert all(p.grad is None for p in (*model.model_b.parameters(), *model.fusion.parameters()))
        assert model.model_a.logits_head.weight.grad.any()
        model.zero_grad()
        output.logits_b.square().sum().backward()
        assert all(p.grad is None for p in model.model_a.parameters())  # neither by prompts nor by features

    def test_a_fusion_that_is_not_detached_carries_gradients_to_a(self):
        model = make_model(fusion="cafa", fusion_detached=False, fusion_dropped=0.0).train()
        model.training_forward(make_image()).logits_b.square().sum().backward()
        assert model.model_a.encoder[0].layers[0].weight.grad.any()
        assert model.model_a.logits_head.weight.grad is None  # the prompts carry none

    def test_some_patches_get_nothing_of_a(self):
        """In training, a share of the patches; in inference none."""
        model, image = make_model(fusion="cafa", fusion_dropped=0.5).train(), make_image(8, size=(32, 16, 16))
        features = model.model_a.encode(image)
        others = [feature + torch.randn_like(feature) for feature in features]

        def moved():
            """Which patches' embeddings change with A's features."""
            both = []
            for each in (features, others):
                torch.manual_seed(3)
                both.append(model.embed(image, each[TOKEN_LEVELS]).tokens)
            return (both[0] != both[1]).flatten(1).any(dim=1)

        with torch.no_grad():
            assert 0 < moved().sum() < 8
            model.fusion_dropped = 0.0
            assert moved().all()
            model.fusion_dropped = 1.0
            assert not moved().any()
            model.eval()
            assert moved().all()

    @pytest.mark.parametrize("norm", ["instance", "batch"])
    def test_model_b_alone(self, norm):
        """Model A is as in inference, but for its dropout: no gradients, no statistics of its own."""
        model, image = make_model(norm=norm, fusion="cafa", fusion_detached=False, mc_samples=3).train(), make_image()
        before = {key: value.clone() for key, value in model.model_a.state_dict().items()}
        masks = draw_masks(model.model_a, samples=3, items=B)
        output = model.training_forward(image, with_a=False, masks=masks)
        assert not output.logits_a.requires_grad
        assert not output.variance.requires_grad
        output.logits_b.square().sum().backward()
        assert all(p.grad is None for p in model.model_a.parameters())
        assert model.fusion.project_a.weight.grad.any()
        assert all(torch.equal(value, before[key]) for key, value in model.model_a.state_dict().items())
        a = model.model_a.eval()
        with torch.no_grad():
            expected = monte_carlo_samples(a, a.encode(image), masks).probabilities[0]
        torch.testing.assert_close(output.logits_a.softmax(1), expected)
        model.train().training_forward(image)
        assert model.model_a.training

    def test_bf16_has_finite_gradients(self):
        model = make_model()
        with autocast("cpu", "bf16"):
            output = model.train().training_forward(make_image())
        (output.logits_a.float().square().mean() + output.logits_b.square().mean() + output.variance.mean()).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        assert output.logits_b.dtype == output.variance.dtype == torch.float32


class TestSettings:
    def test_five_classes_and_four_channels(self):
        model = make_model(num_classes=5, in_channels=4, prompts={"points_per_class": 3, "min_probability": 0.01})
        output = train(model, make_image(channels=4))
        assert output.logits_a.shape == output.logits_b.shape == (B, 5, D, H, W)
        assert output.prompts.point_labels.shape == (B, 15)
        assert output.prompts.point_labels.max() > 1
        with torch.no_grad():
            assert model.eval()(make_image(channels=4)).shape == (B, 5, D, H, W)

    @pytest.mark.parametrize("fine_features", [True, False])
    @pytest.mark.parametrize("fusion", ["none", "concatenation", "cafa"])
    def test_model_b_with_and_without_fine_features(self, fusion, fine_features):
        model, image = make_model(fusion=fusion, fine_features=fine_features), make_image()
        train(model, image)
        expected = (*PROMPTS_NEVER_GIVEN, "not_a_point_embed", "class_embeddings")
        assert without_gradient(model, expected=expected) == []
        with torch.no_grad():
            assert model.eval()(image).isfinite().all()
        assert any("fine_path" in name for name, _ in model.named_parameters()) == fine_features

    def test_fusion_by_name(self):
        assert make_model(fusion="none").fusion is None
        assert isinstance(make_model(fusion="concatenation").fusion, ConcatenationFusion)
        cafa = make_model().fusion  # by default
        assert (cafa.project_a.in_channels, cafa.project_b.in_channels) == (8 * 4, 32)

    @torch.no_grad()
    def test_no_prompts(self):
        model, image = make_model(prompts={"points_per_class": 0}).eval(), make_image()
        prediction = model.predict(image)
        assert prediction.prompts.point_coords.shape == (B, 0, 3)
        assert prediction.logits_b.isfinite().all()
        assert model.train().training_forward(image).prompts.point_labels.shape == (B, 0)

    @torch.no_grad()
    def test_prompts_that_find_nothing(self):
        model = make_model(prompts={"points_per_class": 3, "min_probability": 1.1}).eval()
        prediction = model.predict(make_image())
        assert (prediction.prompts.point_labels == -1).all()
        assert prediction.logits.isfinite().all()

    @torch.no_grad()
    def test_entropy_as_the_uncertainty(self):
        image, by_entropy, published = make_image(), make_model().eval(), make_model(uncertainty_form="variance").eval()
        published.load_state_dict(by_entropy.state_dict())
        prediction = by_entropy.predict(image)
        assert (prediction.epistemic >= 0).all()
        assert (prediction.aleatoric <= torch.tensor(float(C)).log() + 1e-6).all()
        assert not torch.allclose(prediction.aleatoric, published.predict(image).aleatoric)
        torch.testing.assert_close(prediction.logits_a, published.predict(image).logits_a)

    def test_dropout_and_samples_reach_the_model(self):
        settings = {"num_classes": C, "roi_size": (D, H, W), "filters": 4, "sam_variant": "tiny"}
        model = build_auto_prompt_seg(**settings, dropout=0.3, mc_samples=5, norm="group", prompts={"radius": 3})
        assert model.model_a.dropout_probabilities == (0.3, 0.3)
        assert model.mc_samples == 5
        assert isinstance(model.model_a.encoder[0].layers[1], torch.nn.GroupNorm)
        assert (model.prompt_generator.radius, model.prompt_generator.points_per_class) == ((3, 3, 3), 20)
        assert model.own_slots == C * 20

    def test_weights_lie_channels_last(self):
        weight = make_model().model_a.encoder[2].layers[0].weight
        assert weight.is_contiguous(memory_format=torch.channels_last_3d)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"roi_size": (32, 40, 16)},
                r"roi_size \[32, 40, 16\] must be three sizes divisible by 16: try \[32, 32, 16\]",
            ),
            ({"roi_size": (32, 48)}, r"roi_size \[32, 48\] must be three sizes"),
            ({"roi_size": (32, 48, 0)}, r"roi_size \[32, 48, 0\] .* try \[32, 48, 16\]"),
            ({"num_classes": 1}, "num_classes 1"),
            ({"predictor": "c"}, "predictor 'c' must be"),
            ({"uncertainty_form": "std"}, "uncertainty_form 'std' must be"),
            ({"mc_samples": 0}, r"mc_samples 0 and prompt_stride \(2, 2, 2\) must be at least 1"),
            ({"fusion": "cafa", "fusion_dropped": 1.5}, r"fusion_dropped 1\.5 must be a share"),
            ({"fusion": "sum"}, "fusion 'sum' must be"),
            ({"sam_variant": "huge"}, "variant 'huge' must be"),
            ({"norm": "layer"}, "norm 'layer' must be"),
            ({"prompts": {"radius": -1}}, "radius -1"),
        ],
    )
    def test_value_that_does_not_fit_is_refused(self, changes, message):
        with pytest.raises(ValueError, match=message):
            make_model(**changes)

    def test_volume_off_the_stride_is_refused(self):
        with pytest.raises(ValueError, match=r"image size \(32, 40, 16\) must be divisible by 16"):
            make_model()(make_image(size=(32, 40, 16)))
