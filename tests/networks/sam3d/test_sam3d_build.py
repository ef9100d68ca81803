import pytest
import torch

from aps_components.networks.sam3d import VARIANTS, build_sam3d


def test_unknown_variant_is_named():
    with pytest.raises(ValueError, match=r"variant 'huge' must be one of \['compact', 'small', 'tiny', 'vit_b'\]"):
        build_sam3d(num_classes=2, variant="huge")


def test_reference_size_must_be_divisible():
    with pytest.raises(ValueError, match=r"\(112, 112, 81\) must be divisible by \(8, 8, 8\)"):
        build_sam3d(num_classes=2, variant="tiny", reference_size=(112, 112, 81))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_builds(variant):
    with torch.device("meta"):
        model = build_sam3d(num_classes=5, in_channels=4, variant=variant)
    assert model.image_encoder.pos_embed.shape[1:4] == (14, 14, 10)
    assert len(model.image_encoder.blocks) == VARIANTS[variant].depth
    assert model.inflation_report is None


def test_small_is_small():
    with torch.device("meta"):
        model = build_sam3d(num_classes=2)
    assert sum(parameter.numel() for parameter in model.parameters()) < 12e6
