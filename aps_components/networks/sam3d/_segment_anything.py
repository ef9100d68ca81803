"""The dimension-free parts of Meta's segment_anything, imported without torchvision.

`segment_anything/__init__.py` imports torchvision for its 2-D predictor, `segment_anything.modeling` does
not. So a package that has not run its `__init__` yet is registered first; it runs it on the first use of a
name of its own (`segment_anything.SamPredictor`), so whoever has torchvision loses nothing.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any

__all__ = [
    "MLP",
    "Attention",
    "LayerNorm2d",
    "MLPBlock",
    "PositionEmbeddingRandom",
    "TwoWayTransformer",
]

_NAME = "segment_anything"


def _register_bare_package() -> None:
    """Put a `segment_anything` whose `__init__` has not run into sys.modules, unless one is there.

    Raises:
        ModuleNotFoundError: segment_anything is not installed.
    """
    if _NAME in sys.modules:
        return
    spec = importlib.util.find_spec(_NAME)
    if spec is None:
        raise ModuleNotFoundError(f"{_NAME} is missing: pip install segment-anything", name=_NAME)
    package = importlib.util.module_from_spec(spec)  # has __path__, and has run nothing

    def run_init(attribute: str) -> Any:
        if attribute.startswith("__"):  # inspect, pytest and doctest probe for these
            raise AttributeError(attribute)
        _execute(package)
        del package.__getattr__
        return getattr(package, attribute)

    package.__getattr__ = run_init  # type: ignore[method-assign]
    sys.modules[_NAME] = package


def _execute(package: ModuleType) -> None:
    """Run the package's own `__init__`."""
    assert package.__spec__ is not None
    assert package.__spec__.loader is not None
    package.__spec__.loader.exec_module(package)


_register_bare_package()

from segment_anything.modeling.common import LayerNorm2d, MLPBlock  # noqa: E402
from segment_anything.modeling.mask_decoder import MLP  # noqa: E402
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom  # noqa: E402
from segment_anything.modeling.transformer import Attention, TwoWayTransformer  # noqa: E402
