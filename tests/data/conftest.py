from collections.abc import Callable
from pathlib import Path

import pytest
from scans import AFFINE, random_image, random_label, write


@pytest.fixture
def make_case(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Write one case and return its item; `image` and `label` replace the arrays."""

    def make(name: str = "a", *, image=None, label=None, image_affine=AFFINE, label_affine=AFFINE):
        seed = sum(name.encode())
        image = random_image(seed) if image is None else image
        label = random_label(seed) if label is None else label
        return {
            "image": write(tmp_path / "images" / f"{name}.nii.gz", image, image_affine),
            "label": write(tmp_path / "labels" / f"{name}.nii.gz", label, label_affine),
        }

    return make


@pytest.fixture
def two_stream_items(make_case) -> list[dict[str, str]]:
    """Three labelled cases and five unlabelled ones."""
    labeled = [make_case(f"labeled_{i}") for i in range(3)]
    return labeled + [{"image": make_case(f"unlabeled_{i}")["image"]} for i in range(5)]
