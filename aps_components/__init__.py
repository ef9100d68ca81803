"""AutoPromptSeg: semi-supervised 3-D medical image segmentation with a Segment Anything model that prompts itself."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aps_components.api import (
        Answer,
        LoadedModel,
        Predictor,
        Segmentation,
        TrainingResults,
        load_model,
        segment,
        train,
    )

__version__ = "0.2.0"
__all__ = [
    "Answer",
    "LoadedModel",
    "Predictor",
    "Segmentation",
    "TrainingResults",
    "__version__",
    "load_model",
    "segment",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import what lies deeper when it is asked for: ``import aps_components`` loads neither torch nor MONAI."""
    if name in __all__:
        return getattr(import_module("aps_components.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
