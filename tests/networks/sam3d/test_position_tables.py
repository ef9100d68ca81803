import torch
from torch import nn

from aps_components.networks.sam3d.image_encoder import ImageEncoder3d
from aps_components.networks.sam3d.position_tables import resized_position_tables

GRID, OTHER = (3, 5, 2), (5, 7, 3)  # cells of 8 voxels


def _encoder(grid) -> nn.Module:
    torch.manual_seed(4)
    encoder = ImageEncoder3d(
        in_channels=1,
        embed_dim=12,
        depth=2,
        num_heads=3,
        out_channels=10,
        reference_grid=grid,
        window_size=2,
        global_blocks=(1,),
    )
    for name, parameter in encoder.named_parameters():
        if "pos" in name:  # relative positions start at zero
            nn.init.normal_(parameter, std=0.3)
    return nn.ModuleDict({"image_encoder": encoder})


def test_another_grids_encoder_computes_the_same_with_resized_tables():
    here, there = _encoder(GRID), _encoder(OTHER)
    volume = torch.randn(2, 1, *(8 * extent for extent in OTHER))
    expected = here["image_encoder"](volume)
    there.load_state_dict(resized_position_tables(here.state_dict(), like=there.state_dict()))
    torch.testing.assert_close(there["image_encoder"](volume), expected)
    assert there["image_encoder"].pos_embed.shape[1:4] == OTHER


def test_tables_in_half_precision_become_float():
    here, there = _encoder(GRID).half(), _encoder(OTHER)
    resized = resized_position_tables(here.state_dict(), like=there.state_dict())
    assert resized["image_encoder.pos_embed"].dtype == torch.float32
    there.load_state_dict(resized)


def test_what_is_no_position_table_stays_and_so_does_another_width():
    weights = {
        "image_encoder.neck.0.weight": torch.ones(2, 3),
        "image_encoder.pos_embed": torch.ones(1, 2, 2, 2, 8),
        "elsewhere.pos_embed": torch.ones(1, 2, 2, 2, 8),
        "image_encoder.blocks.0.attn.rel_pos_w": torch.ones(3, 4),
        "unknown": torch.ones(1),
    }
    like = {
        "image_encoder.neck.0.weight": torch.ones(5, 3),
        "image_encoder.pos_embed": torch.ones(1, 2, 2, 2, 16),
        "elsewhere.pos_embed": torch.ones(1, 3, 3, 3, 8),
        "image_encoder.blocks.0.attn.rel_pos_w": torch.ones(5, 6),
    }
    kept = resized_position_tables(weights, like=like)
    assert list(kept) == list(weights)
    assert all(kept[name] is value for name, value in weights.items())
