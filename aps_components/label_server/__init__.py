"""MONAI Label with this project's bundles: an environment of its own, the app, the server."""

from aps_components.label_server.app import prepare_app
from aps_components.label_server.client import LabelClient, LabelRequestError
from aps_components.label_server.environment import LabelEnvironment, LabelEnvironmentError, ensure_environment
from aps_components.label_server.server import LabelServer, LabelServerError, studies_place

__all__ = [
    "LabelClient",
    "LabelEnvironment",
    "LabelEnvironmentError",
    "LabelRequestError",
    "LabelServer",
    "LabelServerError",
    "ensure_environment",
    "prepare_app",
    "studies_place",
]
