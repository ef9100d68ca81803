from functools import partial

import pytest
import torch
from segment_anything.build_sam import _build_sam, build_sam_vit_b
from torch.nn import functional as F

from aps_components.networks.sam3d import VARIANTS, Sam3dVariant, build_sam3d, inflate_sam_checkpoint

SIZE, GRID = (24, 40, 16), (3, 5, 2)
# An official SAM with a narrow encoder and the real decoder, and the 3-D variant that fits it.
_narrow_sam = partial(
    _build_sam,
    encoder_embed_dim=48,
    encoder_depth=2,
    encoder_num_heads=3,
    encoder_global_attn_indexes=[1],
)
_NARROW = Sam3dVariant(embed_dim=48, depth=2, num_heads=3, window_size=14, global_blocks=(1,))


@pytest.fixture(scope="module")
def official():
    torch.manual_seed(0)
    sam = _narrow_sam()
    for name, parameter in sam.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:  # zero at the start
            torch.nn.init.normal_(parameter)
    return sam


@pytest.fixture(scope="module")
def path(official, tmp_path_factory):
    path = tmp_path_factory.mktemp("sam") / "sam.pth"
    torch.save(official.state_dict(), path)
    return path


@pytest.fixture
def inflated(path, monkeypatch):
    monkeypatch.setitem(VARIANTS, "narrow", _NARROW)
    return build_sam3d(num_classes=3, in_channels=2, variant="narrow", reference_size=SIZE, checkpoint=path)


def _constant_along_depth(image, depth):
    """[B, C, H, W] -> [B, C, depth, H, W]."""
    return image[:, :, None].expand(-1, -1, depth, -1, -1)


def test_patch_embedding_of_a_depth_constant_volume_is_the_official_one(official, inflated):
    slices = torch.randn(2, 1, 40, 16)
    volume = _constant_along_depth(slices, 24).expand(-1, 2, -1, -1, -1)
    twice = F.interpolate(slices, scale_factor=2, mode="nearest").expand(-1, 3, -1, -1)  # SAM's 16 for our 8
    expected = official.image_encoder.patch_embed(twice)  # [2, 5, 2, 48]
    ours = inflated.image_encoder.patch_embed(volume)
    assert ours.shape == (2, *GRID, 48)
    for d in range(GRID[0]):
        torch.testing.assert_close(ours[:, d], expected, atol=1e-4, rtol=1e-4)


def test_position_embedding_is_the_same_at_every_depth(official, inflated):
    ours = inflated.image_encoder.pos_embed
    assert ours.shape == (1, *GRID, 48)
    assert ours[:, 0].equal(ours[:, 2])
    grid = official.image_encoder.pos_embed.movedim(-1, 1)
    expected = F.interpolate(grid, size=(5, 2), mode="bilinear", antialias=True).movedim(1, -1)
    torch.testing.assert_close(ours[:, 1], expected)


def test_relative_positions_keep_their_middle(official, inflated):
    for theirs, ours in zip(official.image_encoder.blocks, inflated.image_encoder.blocks, strict=True):
        assert ours.attn.rel_pos_h.shape == (9, 16)
        middle = len(theirs.attn.rel_pos_h) // 2
        torch.testing.assert_close(ours.attn.rel_pos_h[4], theirs.attn.rel_pos_h[middle])
        assert (ours.attn.rel_pos_d == 0).all()


def test_neck_acts_on_each_slice_as_the_official_one(official, inflated):
    x = torch.randn(1, 48, *GRID)
    with torch.no_grad():
        ours = inflated.image_encoder.neck(x)
        for d in range(GRID[0]):
            torch.testing.assert_close(ours[:, :, d], official.image_encoder.neck(x[:, :, d]), atol=1e-4, rtol=1e-4)


def test_upscaling_of_each_slice_is_the_official_one(official, inflated):
    x = torch.randn(1, 256, *GRID)
    with torch.no_grad():
        ours = inflated.mask_decoder.output_upscaling(x)
        for d in range(GRID[0]):
            expected = official.mask_decoder.output_upscaling(x[:, :, d])
            for part in range(4):
                torch.testing.assert_close(ours[:, :, 4 * d + part], expected, atol=1e-4, rtol=1e-4)


def test_mask_of_one_foreground_class_is_the_official_mask(official, inflated):
    mask = torch.randn(1, 1, 20, 8)
    inputs = torch.zeros(1, 3, 12, 20, 8)
    inputs[:, 0] = 7.0  # background goes unseen
    inputs[:, 2] = mask
    with torch.no_grad():
        ours = inflated.prompt_encoder.mask_downscaling(inputs)
        expected = official.prompt_encoder.mask_downscaling(mask)
    for d in range(GRID[0]):
        torch.testing.assert_close(ours[:, :, d], expected, atol=1e-4, rtol=1e-4)


def test_points_are_official_points_at_half_depth(official, inflated):
    # half depth is the origin of the encoding's depth axis; SAM gives (x, y), we (d, h, w)
    coords, size = torch.tensor([[[11.5, 31.0, 5.0], [11.5, 2.0, 13.0]]]), SIZE
    ours, _ = inflated.prompt_encoder(image_size=size, points=(coords, torch.tensor([[0, 2]])))
    official.prompt_encoder.input_image_size = (40, 16)
    expected = official.prompt_encoder._embed_points(coords[..., [2, 1]], torch.tensor([[0, 1]]), pad=False)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_corners_are_official_corners_at_half_depth(official, inflated):
    corners = torch.tensor([[[[11.5, 3.0, 2.0], [11.5, 31.0, 13.0]]]])
    ours, _ = inflated.prompt_encoder(image_size=SIZE, boxes=(corners, torch.tensor([[1]])))
    official.prompt_encoder.input_image_size = (40, 16)
    expected = official.prompt_encoder._embed_boxes(corners[..., [2, 1]].flatten(-2))
    torch.testing.assert_close(
        ours, expected + inflated.prompt_encoder.class_embeddings.weight[1], atol=1e-4, rtol=1e-4
    )


def test_every_class_starts_as_the_mean_of_the_official_masks(official, inflated):
    theirs = official.mask_decoder.output_hypernetworks_mlps
    mean = torch.stack([mlp.layers[1].weight for mlp in theirs]).mean(0)
    for class_weight in inflated.mask_decoder.output_hypernetworks_mlps.weights[1]:
        torch.testing.assert_close(class_weight, mean)
    torch.testing.assert_close(
        inflated.mask_decoder.mask_tokens.weight[2], official.mask_decoder.mask_tokens.weight.mean(0)
    )


def test_report_accounts_for_every_tensor(inflated, official):
    report = inflated.inflation_report
    named = {*report.taken, *report.inflated, *report.left}
    assert named >= inflated.state_dict().keys()
    assert "mask_decoder.transformer.layers.0.self_attn.q_proj.weight" in report.taken
    assert "image_encoder.blocks.1.attn.qkv.weight" in report.taken
    assert report.inflated["image_encoder.patch_embed.proj.weight"] == "patch embedding"
    left = {name for name in report.left if "rel_pos_d" not in name}
    own = ("image_encoder.stem.", "mask_decoder.fine_path.")
    assert left == {name for name in inflated.state_dict() if name.startswith(own)}
    text = str(report)
    assert "tensors taken" in text
    depth = next(line for line in text.splitlines() if "rel_pos_d" in line)
    assert depth.startswith("  left: image_encoder.blocks.*.attn.rel_pos_d (2-D SAM has no ")
    assert depth.endswith("x 2")


@pytest.mark.parametrize("fine_features", [True, False])
def test_inflated_model_runs(path, monkeypatch, prompts, fine_features):
    monkeypatch.setitem(VARIANTS, "narrow", _NARROW)
    inflated = build_sam3d(
        num_classes=3,
        in_channels=2,
        variant="narrow",
        reference_size=SIZE,
        fine_features=fine_features,
        checkpoint=path,
    )
    with torch.no_grad():
        assert inflated(torch.randn(2, 2, *SIZE), prompts=prompts).isfinite().all()


def test_small_takes_the_decoder_and_leaves_the_blocks(path):
    model = build_sam3d(num_classes=2, reference_size=SIZE, checkpoint=path)
    report = model.inflation_report
    assert "(48, 48)" in report.left["image_encoder.blocks.0.attn.proj.weight"]
    assert report.left["image_encoder.blocks.4.norm1.weight"] == "2-D SAM has no image_encoder.blocks.*.norm1.weight"
    parts = ("mask_decoder", "prompt_encoder")
    assert all("fine_path" in name for name in report.left if name.startswith(parts))


def test_the_fine_parts_keep_their_own_start(path):
    def build(checkpoint):
        torch.manual_seed(3)
        return build_sam3d(num_classes=2, reference_size=SIZE, checkpoint=checkpoint)

    model, fresh = build(path), build(None)
    own, fresh_weights = ("image_encoder.stem.", "mask_decoder.fine_path."), fresh.state_dict()
    fine = {name: value for name, value in model.state_dict().items() if name.startswith(own)}
    assert len(fine) > 20
    assert all(torch.equal(value, fresh_weights[name]) for name, value in fine.items())
    assert fine.keys() <= model.inflation_report.left.keys()
    token = "mask_decoder.iou_token.weight"
    assert not torch.equal(model.state_dict()[token], fresh_weights[token])


def test_missing_file(sam3d, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pth is not there: give the path"):
        inflate_sam_checkpoint(sam3d, tmp_path / "absent.pth")


def test_truncated_file(sam3d, path, tmp_path):
    cut = tmp_path / "cut.pth"
    with path.open("rb") as whole:
        cut.write_bytes(whole.read(100_000))
    with pytest.raises(ValueError, match=r"cut\.pth cannot be read; it may be cut off"):
        inflate_sam_checkpoint(sam3d, cut)


@pytest.mark.parametrize("content", [{"weight": torch.zeros(2)}, [1, 2], torch.zeros(3)])
def test_file_of_something_else(sam3d, tmp_path, content):
    other = tmp_path / "other.pth"
    torch.save(content, other)
    with pytest.raises(ValueError, match=r"other\.pth is not a SAM checkpoint"):
        inflate_sam_checkpoint(sam3d, other)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"<html>404</html>"])
def test_file_of_no_tensors(sam3d, tmp_path, content):
    other = tmp_path / "page.pth"
    other.write_bytes(content)
    with pytest.raises(ValueError, match=r"page\.pth cannot be read"):
        inflate_sam_checkpoint(sam3d, other)


@pytest.mark.slow
def test_official_vit_b_fits_vit_b(tmp_path):
    path = tmp_path / "sam_vit_b.pth"
    torch.save(build_sam_vit_b().state_dict(), path)
    report = build_sam3d(num_classes=2, variant="vit_b", checkpoint=path).inflation_report
    path.unlink()  # 375 MB
    left = [name for name in report.left if "stem." not in name and "fine_path." not in name]
    assert all("rel_pos_d" in name for name in left)
    assert len(left) == 12
