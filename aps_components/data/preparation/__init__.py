"""Official downloads as input: what they hold is checked, converted where needed, and divided once and for all."""

from aps_components.data.preparation.prepare import prepare

__all__ = ["prepare"]
