import torch
from segment_anything.modeling.transformer import TwoWayTransformer

from aps_components.networks.sam3d import TwoWayTransformer3d

SIZES = {"depth": 2, "embedding_dim": 24, "num_heads": 3, "mlp_dim": 17}


def test_equals_the_official_transformer_on_flattened_tokens():
    official, ours = TwoWayTransformer(**SIZES), TwoWayTransformer3d(**SIZES)
    ours.load_state_dict(official.state_dict())  # the very same names
    volume, pe, tokens = torch.randn(2, 24, 3, 5, 2), torch.randn(1, 24, 3, 5, 2), torch.randn(2, 7, 24)
    expected = official(volume.flatten(3), pe.flatten(3), tokens)
    for got, want in zip(ours(volume, pe, tokens), expected, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
