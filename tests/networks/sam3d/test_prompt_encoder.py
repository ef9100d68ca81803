import pytest
import torch

from aps_components.networks.sam3d import PromptEncoder3d

SIZE, GRID, CLASSES, E = (24, 40, 16), (3, 5, 2), 3, 12


@pytest.fixture
def encoder() -> PromptEncoder3d:
    return PromptEncoder3d(embed_dim=E, num_classes=CLASSES, mask_channels=8)


def test_shapes_of_every_kind_of_prompt(encoder, points, boxes):
    masks = torch.randn(2, CLASSES, 12, 20, 8)
    sparse, dense = encoder(image_size=SIZE, points=points, boxes=boxes, mask_inputs=masks)
    assert sparse.shape == (2, 7 + 2 * 2, E)
    assert dense.shape == (2, E, *GRID)


@pytest.mark.parametrize(("batch_size", "expected"), [(None, 1), (5, 5)])
def test_no_prompts_at_all(encoder, batch_size, expected):
    sparse, dense = encoder(image_size=SIZE, batch_size=batch_size)
    assert sparse.shape == (expected, 0, E)
    assert dense.shape == (expected, E, *GRID)
    assert (dense == encoder.no_mask_embed.weight.view(1, E, 1, 1, 1)).all()


def test_pads_are_all_alike_wherever_they_are(encoder):
    coords = torch.tensor([[[1.0, 2, 3], [-7, 900, 0.5], [float("nan")] * 3]])
    sparse, _ = encoder(image_size=SIZE, points=(coords, torch.full((1, 3), -1)))
    assert sparse.equal(encoder.not_a_point_embed.weight.expand(1, 3, E))


def test_pad_boxes_are_two_pads(encoder, boxes):
    sparse, _ = encoder(image_size=SIZE, boxes=boxes)
    assert sparse[0, 2:].equal(encoder.not_a_point_embed.weight.expand(2, E))
    assert not sparse[1, 2:].isclose(encoder.not_a_point_embed.weight).all()


def test_every_class_has_an_embedding_of_its_own(encoder):
    coords = torch.tensor([5.0, 31, 2]).expand(1, CLASSES, 3)
    sparse, _ = encoder(image_size=SIZE, points=(coords, torch.arange(CLASSES)[None]))
    classes = encoder.class_embeddings.weight
    torch.testing.assert_close(sparse[0] - sparse[0, 0], classes - classes[0], atol=1e-5, rtol=1e-5)


def test_box_corner_is_position_class_and_corner(encoder):
    corners = torch.tensor([[[[2.0, 3, 5], [11, 13, 7]]]])
    sparse, _ = encoder(image_size=SIZE, boxes=(corners, torch.tensor([[2]])))
    position = encoder.pe_layer.forward_with_coords(corners[0, 0] + 0.5, SIZE)
    expected = position + encoder.class_embeddings.weight[2] + encoder.corner_embeddings.weight
    torch.testing.assert_close(sparse[0], expected)


@pytest.mark.parametrize("label", [3, 7, -2])
@pytest.mark.parametrize("kind", ["points", "boxes"])
def test_a_label_that_is_no_class_is_named(encoder, label, kind):
    where = torch.zeros(1, 2, 3) if kind == "points" else torch.zeros(1, 2, 2, 3)
    with pytest.raises(ValueError, match=f"label {label} must be -1 or below 3"):
        encoder(image_size=SIZE, **{kind: (where, torch.tensor([[1, label]]))})


def test_batch_sizes_that_differ_are_named(encoder, points):
    with pytest.raises(ValueError, match=r"differ: \[2, 3\]"):
        encoder(image_size=SIZE, points=points, batch_size=3)


def test_mask_at_another_size_is_named(encoder):
    with pytest.raises(ValueError, match=r"mask_inputs \(3, 24, 40, 16\) must be \(3, 12, 20, 8\)"):
        encoder(image_size=SIZE, mask_inputs=torch.zeros(1, CLASSES, *SIZE))


def test_odd_width_is_refused():
    with pytest.raises(ValueError, match="embed_dim 7"):
        PromptEncoder3d(embed_dim=7, num_classes=2)
