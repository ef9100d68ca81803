import pytest
import torch

from aps_components.networks.sam3d import Prompts, Sam3d, build_sam3d

SIZE = (24, 40, 16)  # 3 x 5 x 2 cells: no two axes alike
CLASSES = 3


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def sam3d() -> Sam3d:
    torch.manual_seed(1)
    return build_sam3d(num_classes=CLASSES, in_channels=2, variant="tiny", reference_size=SIZE)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 2, *SIZE)


@pytest.fixture
def points() -> tuple[torch.Tensor, torch.Tensor]:
    coords = torch.stack([torch.randint(0, extent, (2, 7)) for extent in SIZE], dim=-1).float()
    labels = torch.tensor([[0, 1, 2, 1, 0, -1, -1], [2, 2, 1, 0, -1, -1, -1]])
    return coords, labels


@pytest.fixture
def boxes() -> tuple[torch.Tensor, torch.Tensor]:
    corners = torch.tensor([[[3.0, 5, 2], [20, 31, 13]], [[0, 0, 0], [23, 39, 15]]])
    return corners.expand(2, 2, 2, 3), torch.tensor([[1, -1], [2, 1]])


@pytest.fixture
def own() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The model's own points."""
    coords = torch.stack([torch.randint(0, extent, (2, 5)) for extent in SIZE], dim=-1).float()
    return coords, torch.tensor([[1, 0, 2, -1, 1], [0, 2, -1, -1, -1]]), torch.rand(2, 5)


@pytest.fixture
def prompts(points, own, boxes) -> Prompts:
    """Of all kinds; both have pads, and a line of the third class runs through the first volume."""
    strokes = torch.tensor([[[12.0, 20, 5 + step] for step in range(6)]]).expand(2, -1, -1)
    labels = torch.tensor([[2] * 6, [-1] * 6])
    return Prompts(*points, *own, *boxes, strokes, labels)
