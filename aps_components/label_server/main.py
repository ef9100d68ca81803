"""What MONAI Label looks for in the folder of an app; ``aps label`` writes it there anew at every start."""

from aps_components.label_server.application import Application

__all__ = ["Application"]
