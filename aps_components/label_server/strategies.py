"""The next scan in MONAI Label: its strategies and its scoring, thin around what needs no MONAI Label.

Scores lie beside a model, in ``scores.json``. A process of its own, of low priority, renews them when a training has
ended, and the server goes on answering meanwhile, by the scores of before. Until any scan is scored, they come by
chance.
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aps_components.bundle import aps_command
from aps_components.bundle.locate import WEIGHTS
from aps_components.evaluation.doubt.next_scan import NEED_SCORES, RANDOM, ScanScore, next_scans
from aps_components.files import sha256_of
from aps_components.label_server.app import UNTRAINED
from aps_components.label_server.parameters import PARTIAL
from aps_components.models import trained_setting
from aps_components.segmentation.next_scan import SCORES_FILE, read_scores

FIRST = "first"  # as MONAI Label calls its own, which would name a scan that cannot be read for ever
DESCRIPTIONS = {
    "predicted_dice": "The scan whose answer is expected to be the worst",
    "doubt": "The scan that the model is least sure of, the classes in turns",
    "foreground": "By chance, among scans in which the model finds something",
    RANDOM: "By chance",
    FIRST: "By name",
}
NICENESS = 19  # the lowest priority
SCANS_A_ROUND = 3  # labelled between two trainings, as a rule
HELD = 3600.0  # seconds for which a scan that somebody was given is nobody's next, if there are others
WATCHED = 20.0  # seconds between two looks at the weights
logger = logging.getLogger(__name__)


def choose(strategy: str, images: list[str], scores: Mapping[str, Mapping[str, Any]], *, round: int, seed: int) -> str:
    """The next of the unlabelled images.

    Args:
        strategy: one of :data:`DESCRIPTIONS`.
        images: that have no label, one or more.
        scores: by image, as ``read_scores`` gives them; of some of the images.
        round: trainings so far.
        seed: of what is left to chance.
    """
    if strategy == FIRST:
        return min(images)
    known = {image: ScanScore.from_json(scores[image]) for image in images if image in scores}
    if strategy in NEED_SCORES and known:
        return next_scans(strategy, known, seed=seed, round=round)[0]
    nothing = {image: ScanScore(entropy={}) for image in images}
    return next_scans(RANDOM, nothing, seed=seed, round=round)[0]


def renew_scores(model: Path, scans: Mapping[str, str]) -> int:
    """Score scans with a model's weights, in a process of low priority; its exit status.

    Args:
        model: folder of the bundle, in the app; it receives ``scores.json``.
        scans: name to file or folder.
    """
    with TemporaryDirectory() as work:
        listed = Path(work) / "scans.json"
        listed.write_text(json.dumps(dict(scans)), encoding="utf-8")
        command = aps_command("next-scan", {"scans": listed, "bundle": model, "out": model / SCORES_FILE})
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        if hasattr(os, "setpriority"):
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        return process.wait()


class Renewal:
    """Keeps the scores of a model up to date, one process at a time, and nobody waits for it.

    Args:
        model: folder of the bundle, in the app.
        scans: gives the unlabelled scans, name to file or folder.
        renew: does the work.
        training: whether one is going on, which changes the weights after each epoch: it is waited for.
    """

    def __init__(
        self,
        model: Path,
        scans: Callable[[], Mapping[str, str]],
        *,
        renew: Callable[[Path, Mapping[str, str]], int] = renew_scores,
        training: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model, self.scans, self.renew, self.training = model, scans, renew, training
        self._lock = threading.Lock()
        self._done: tuple[str, frozenset[str]] | None = None
        self._seen: tuple[int, int] | None = None
        self._hash = ""
        self._latest: dict[str, dict[str, Any]] = {}

    def weights(self) -> str:
        """SHA-256 of the model's weights, read anew where the file has changed; empty of none and of random ones."""
        file = self.model / WEIGHTS
        try:
            found = file.stat()
        except OSError:
            return ""
        if self._seen != (found.st_mtime_ns, found.st_size):
            self._hash = "" if trained_setting(file, UNTRAINED, False) else sha256_of(file)
            self._seen = (found.st_mtime_ns, found.st_size)
        return self._hash

    def scores(self) -> dict[str, dict[str, Any]]:
        """The latest of every scan: until it is scored anew, what earlier weights said of it is better than chance."""
        if not self.weights():
            return {}
        self._latest |= read_scores(self.model / SCORES_FILE)
        return dict(self._latest)

    def _of_present_weights(self) -> dict[str, dict[str, Any]]:
        return read_scores(self.model / SCORES_FILE, weights=self.weights())

    def check(self) -> bool:
        """Have scores renewed where a training has changed the weights or scans have come; whether that begins now."""
        scans = self.scans()
        wanted = (self.weights(), frozenset(scans))
        missing = set(scans) - set(self._of_present_weights())
        if not wanted[0] or not missing or wanted == self._done or self.training():
            return False
        self.scores()  # the new ones are written in the place of these
        if not self._lock.acquire(blocking=False):
            return False

        def work() -> None:
            try:
                self.renew(self.model, scans)
                self._done = wanted  # a scan that cannot be scored is not tried again and again
            finally:
                self._lock.release()

        threading.Thread(target=work, name="scores", daemon=True).start()
        return True

    def watch(self, *, seconds: float = WATCHED) -> None:
        """Check now and then, as long as the process lives."""

        def look() -> None:
            while True:
                try:
                    self.check()
                except Exception:  # scores are a help: without them scans come by chance
                    logger.exception("scores are not renewed")
                time.sleep(seconds)

        threading.Thread(target=look, name="scores, watched", daemon=True).start()


class Held:
    """Which scans were given of late: two people do not label the same one, and whoever asks again gets another.

    Who asks is not looked at: 3D Slicer's module gives everybody the same ``client_id``, and OHIF's panel gives none.
    """

    def __init__(self, *, seconds: float = HELD, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._now = seconds, now
        self._given: dict[str, float] = {}
        self._lock = threading.Lock()

    def take(self, images: list[str], choose: Callable[[list[str]], str]) -> str:
        """One of the images that were not given of late, else the one that was given first; it is held from now on."""
        with self._lock:
            free = [image for image in images if self._now() - self._given.get(image, -math.inf) >= self._seconds]
            image = choose(free) if free else min(images, key=lambda image: self._given[image])
            self._given[image] = self._now()
        return image

    def give_back(self, image: str) -> None:
        """It is held no more."""
        with self._lock:
            self._given.pop(image, None)


def is_readable(datastore: Any, image: str) -> bool:
    """Whether a scan can be given to a viewer; an archive fetches it now. Why not is said in the log."""
    try:
        if datastore.get_image_uri(image):
            return True
        logger.warning(f"passed over: {image}: it is there no more")
    except Exception as error:  # whatever a reader of DICOM makes of a series
        logger.warning(f"passed over: {image}: {error}")
    return False


def strategies(renewal: Renewal) -> dict[str, Any]:
    """MONAI Label's strategies, by the names that viewers list."""
    from monailabel.interfaces.tasks.strategy import Strategy

    held = Held()

    class Next(Strategy):
        """One of :data:`DESCRIPTIONS`."""

        def __init__(self, name: str) -> None:
            super().__init__(DESCRIPTIONS[name])
            self.name = name

        def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, str] | None:
            left = sorted(datastore.get_unlabeled_images())
            if not left:
                return None
            begun = {image for image in left if PARTIAL in datastore.get_labels_by_image_id(image)}
            untouched = [image for image in left if image not in begun]
            labelled = len(datastore.get_labeled_images())
            renewal.check()
            draw = partial(choose, self.name, scores=renewal.scores(), round=labelled // SCANS_A_ROUND, seed=labelled)
            for images in (untouched, sorted(begun)):  # half-finished ones when there are no others
                while images:
                    image = held.take(images, draw)
                    if is_readable(datastore, image):
                        return {"id": image}
                    held.give_back(image)
                    images.remove(image)
            return None

    return {name: Next(name) for name in DESCRIPTIONS}


def install(app: Any) -> None:
    """Add the strategies to an app of MONAI Label, for its first model, and keep the scores up to date.

    Args:
        app: a ``MONAILabelApp`` that is complete.
    """
    if not app._infers:  # a server of no model has no doubt
        return
    model = Path(app.app_dir) / "model" / next(iter(app._infers))
    datastore = app.datastore()
    renewal = Renewal(model, lambda: unlabelled_scans(datastore), training=_is_training)
    app._strategies.clear()  # the first of the list is Slicer's default
    app._strategies.update(strategies(renewal))
    renewal.watch()


def _is_training() -> bool:
    from monailabel.utils.async_tasks.task import AsyncTask

    return AsyncTask.status("train", check_if_running=True)[0] is not None


def unlabelled_scans(datastore: Any) -> dict[str, str]:
    """Name to file of the scans without a label; of an archive those that are here, as scores are not worth a fetch."""
    file_of = getattr(datastore, "fetched", datastore.get_image_uri)
    return {image: file for image in datastore.get_unlabeled_images() if (file := file_of(image))}
