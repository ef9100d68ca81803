"""A small mask decoder, with a fine path or without, and inputs of sizes that cannot be confused."""

import torch

from aps_components.networks.sam3d import ImageEmbedding, MaskDecoder3d, TwoWayTransformer3d
from aps_components.networks.sam3d.fine_path import FinePath
from aps_components.networks.sam3d.grid import ISOTROPIC_KERNELS
from aps_components.networks.sam3d.prompt_maps import PromptMaps, reach

B, C, E, GRID = 2, 3, 16, (3, 5, 2)
QUARTER, HALF, SIZE = (6, 10, 4), (12, 20, 8), (24, 40, 16)


def make_decoder(*, fine: bool = False) -> MaskDecoder3d:
    transformer = TwoWayTransformer3d(depth=2, embedding_dim=E, num_heads=2, mlp_dim=11)
    path = FinePath(
        in_channels=1,
        num_classes=C,
        image_channels=(7, 5),
        channels=(E // 8, E // 4),
        refining_channels=6,
        kernel_sizes=ISOTROPIC_KERNELS,
    )
    return MaskDecoder3d(E, transformer, num_classes=C, fine_path=path if fine else None)


def plain_inputs(*, grid=GRID) -> dict:
    return {
        "embedding": ImageEmbedding(torch.randn(B, E, *grid)),
        "image_pe": torch.randn(1, E, *grid),
        "sparse_prompt_embeddings": torch.randn(B, 7, E),
        "dense_prompt_embeddings": torch.randn(B, E, *grid),
    }


def fine_inputs(*, grid=GRID, earlier=False) -> dict:
    """With prompts everywhere, and an earlier answer or none."""
    half, size = (tuple(factor * extent for extent in grid) for factor in (4, 8))
    quarter = tuple(2 * extent for extent in grid)
    inputs = plain_inputs(grid=grid)
    fine = (torch.randn(B, 5, *quarter), torch.randn(B, 7, *half), torch.randn(B, 1, *size))
    points, own = torch.rand(2, B, C, *size)
    boxes = (torch.rand(B, C, *size) > 0.5).float()
    previous = torch.randn(B, C, *size).log_softmax(dim=1) if earlier else None
    maps = with_marks(PromptMaps(points, own, boxes, previous, torch.rand(B, C, *half), points), boxes=boxes)
    return inputs | {"embedding": ImageEmbedding(inputs["embedding"].tokens, *fine), "maps": maps}


def with_marks(maps: PromptMaps, *, far=None, boxes=None) -> PromptMaps:
    """The same maps with other balls and boxes, 0 by default for the boxes, and the reach that these have."""
    far = maps.far if far is None else far
    boxes = torch.zeros_like(maps.boxes) if boxes is None else boxes
    return maps._replace(far=far, boxes=boxes, reach=reach(far, boxes))
