import pytest
import torch
from torch import nn

from aps_components.networks.residual_encoder import ResidualEncoderUNet
from aps_components.networks.upsampling import start_as_blocks
from aps_components.networks.vnet import VNet


@pytest.mark.parametrize("stride", [(2, 2, 2), (2, 2, 1), (1, 2, 2)])
def test_a_start_as_blocks_repeats_each_cell(stride):
    torch.manual_seed(0)
    up = start_as_blocks(nn.ConvTranspose3d(4, 3, kernel_size=stride, stride=stride))
    cells = torch.randn(2, 4, 3, 5, 7)
    mixed = torch.einsum("bidhw,io->bodhw", cells, up.weight[:, :, 0, 0, 0]) + up.bias[:, None, None, None]
    for axis, factor in enumerate(stride, start=2):
        mixed = mixed.repeat_interleave(factor, dim=axis)
    torch.testing.assert_close(up(cells), mixed)
    assert mixed.std() > 0.1


@pytest.mark.parametrize("network", [VNet, ResidualEncoderUNet])
def test_decoders_begin_without_a_checkerboard(network):
    ups = [module for module in network(filters=4).modules() if isinstance(module, nn.ConvTranspose3d)]
    assert len(ups) == 4
    for up in ups:
        weight = up.weight.flatten(2)
        assert torch.equal(weight, weight[:, :, :1].expand_as(weight))
        assert weight.std() > 0
