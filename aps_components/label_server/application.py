"""The app that MONAI Label serves: for each bundle an automatic answer, others to clicks and scribbles, training."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask as MonaiLabelTrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.tasks.infer.bundle import BundleInferTask

import aps_components
from aps_components.label_server import strategies
from aps_components.label_server.archive import Archive, archive_client
from aps_components.label_server.bundle_model import load_bundle_model
from aps_components.label_server.clicks import INTERACTIVE, SCRIBBLED, Clicks
from aps_components.label_server.label_names import served_bundles
from aps_components.label_server.tasks import ClicksTask, ScribblesTask
from aps_components.label_server.training import TrainTask

logger = logging.getLogger(__name__)
UNSET_FILTER = {"Modality": "CT"}  # MONAI Label's default, which it also writes into its own environment


class Application(MONAILabelApp):
    """The bundles of an app's folder that ``--conf models`` names."""

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        self.bundles = served_bundles(app_dir, conf)
        self.clicks = Clicks(load_bundle_model)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="AutoPromptSeg",
            description="Segments, takes clicks and scribbles, and learns from scans with and without labels",
            version=aps_components.__version__,
        )

    def init_infers(self) -> dict[str, InferTask]:
        """By the names that the viewers list."""
        tasks: dict[str, InferTask] = {
            name: BundleInferTask(str(path), self.conf) for name, path in self.bundles.items()
        }
        tasks |= {name + INTERACTIVE: ClicksTask(path, self.clicks) for name, path in self.bundles.items()}
        return tasks | {name + SCRIBBLED: ScribblesTask(path, self.clicks) for name, path in self.bundles.items()}

    def init_trainers(self) -> dict[str, MonaiLabelTrainTask]:
        """One for each bundle."""
        return {name: TrainTask(str(path), self.conf) for name, path in self.bundles.items()}

    def init_strategies(self) -> dict[str, Strategy]:
        """Of a server of no model; with one, :func:`strategies.install` puts others in their place."""
        return {"random": Random(), "first": First()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """None by default."""
        return {}

    def on_init_complete(self) -> None:
        """In the server's own process alone, once everything is there; a training makes an app of its own.

        What watches the weights begins here: the scores of the scans, by which the strategies choose.
        """
        super().on_init_complete()
        strategies.install(self)

    def _init_dicomweb_datastore(self) -> Archive:
        return Archive(
            client=archive_client(self.studies),
            search_filter=_search_filter(),
            cache_path=settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip() or os.path.join(self.app_dir, "dicom"),
            fetch_by_frame=settings.MONAI_LABEL_DICOMWEB_FETCH_BY_FRAME,
            bundles=list(self.bundles.values()),
        )


def _search_filter() -> dict[str, Any] | None:
    """What somebody has set; None by default."""
    wanted: dict[str, Any] = settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER
    return None if wanted == UNSET_FILTER else wanted
