import math

import pytest
import torch

from aps_components.networks.sam3d.position_encoding import RandomFourierEncoding3d
from aps_components.networks.sam3d.prompt_encoder import PromptEncoder3d

STRIDE = 8


def test_dense_encoding_is_the_point_encoding_of_every_cell_centre():
    encoder = PromptEncoder3d(embed_dim=12, num_classes=2)
    grid = (3, 5, 2)
    dense = encoder.get_dense_pe(grid)
    assert dense.shape == (1, 12, *grid)
    cells = torch.cartesian_prod(*[torch.arange(extent) for extent in grid])
    centres = (cells + 0.5) * STRIDE - 0.5  # voxel index of a cell's centre
    size = (24, 40, 16)
    points = encoder.pe_layer.forward_with_coords(centres + 0.5, size)
    for (d, h, w), expected in zip(cells.tolist(), points, strict=True):
        torch.testing.assert_close(dense[0, :, d, h, w], expected)


def test_point_embedding_is_the_dense_encoding_plus_the_class():
    encoder = PromptEncoder3d(embed_dim=12, num_classes=2)
    # a grid as fine as the volume: cell (d, h, w) is voxel (d, h, w)
    size = (8, 24, 16)
    voxels = torch.cartesian_prod(*[torch.arange(extent) for extent in size])
    sparse, _ = encoder(image_size=size, points=(voxels[None].float(), torch.ones(1, len(voxels)).long()))
    dense = encoder.pe_layer(size).flatten(1).T
    torch.testing.assert_close(sparse[0] - encoder.class_embeddings.weight[1], dense, atol=1e-5, rtol=1e-5)


def test_encoding_by_hand():
    encoding = RandomFourierEncoding3d(1)
    encoding.positional_encoding_gaussian_matrix.copy_(torch.tensor([[1.0], [0.5], [0.25]]))
    coords = torch.tensor([6.0, 5.0, 2.0])  # of (8, 20, 16): 0.75, 0.25, 0.125 -> 0.5, -0.5, -0.75
    angle = 2 * math.pi * (0.5 - 0.25 - 0.1875)
    expected = torch.tensor([math.sin(angle), math.cos(angle)])
    torch.testing.assert_close(encoding.forward_with_coords(coords, (8, 20, 16)), expected)


def test_encoding_stays_float32_under_autocast():
    encoding = RandomFourierEncoding3d(5)
    coords = torch.rand(4, 3) * 100
    exact = encoding.forward_with_coords(coords, (112, 104, 80))
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoding.forward_with_coords(coords, (112, 104, 80))
    assert rough.dtype == torch.float32
    assert rough.equal(exact)


def test_frequencies_scale():
    torch.manual_seed(0)
    one = RandomFourierEncoding3d(7).positional_encoding_gaussian_matrix
    assert one.shape == (3, 7)
    wide = RandomFourierEncoding3d(4000, scale=3.0).positional_encoding_gaussian_matrix
    assert wide.std().item() == pytest.approx(3.0, rel=0.05)
