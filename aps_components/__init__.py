"""AutoPromptSeg: semi-supervised 3-D medical image segmentation with a Segment Anything model that prompts itself."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aps_components.interactive import Predictor, load_model
    from aps_components.recipe import train

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "load_model", "train"]
WHERE = {"Predictor": "interactive", "load_model": "interactive", "train": "recipe"}


def __getattr__(name: str) -> Any:
    """Import what lies deeper when it is asked for: ``import aps_components`` loads neither torch nor MONAI."""
    if name in WHERE:
        return getattr(import_module(f"aps_components.{WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
