"""A viewer's clicks on the scans that it shows, and what is kept between them.

A viewer sends every point of a scan again with each request, as for MONAI Label's DeepEdit (Diaz-Pinto et al. 2022,
arXiv:2203.12362). What was said before is recognised, and the further points alone are said to the predictor.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps_components.files import sha256_of
from aps_components.interactive import Answer, LoadedModel, Predictor
from aps_components.label_server.parameters import RefusedRequestError

KEPT = 2  # scans, of which each keeps its image embeddings in memory
INTERACTIVE, SCRIBBLED = "_clicks", "_scribbles"  # what the names of a bundle's further tasks end with
BACKGROUND = "background"
FOREGROUND = "foreground"
Points = dict[int, list[tuple[float, ...]]]
Stamp = tuple[int, int]


def asked_points(params: Mapping[str, Any], labels: Mapping[str, int]) -> Points:
    """The points of a request, by class value; classes without points are left out.

    Args:
        params: of the request: for each class its points, ``{"kidney": [[i, j, k]], "background": [...]}``, in
            voxels of the scan as it is stored; or ``foreground``, which is the class ``label``.
        labels: name to value of the model's classes, background included.

    Raises:
        RefusedRequestError: a point is none, or ``foreground`` of no class.
    """
    points: Points = {}
    for name, value in labels.items():
        if places := params.get(name):
            points[value] = _places(places, name)
    if (places := params.get(FOREGROUND)) and FOREGROUND not in labels:
        name = str(params.get("label"))
        if name not in labels or name == BACKGROUND:
            raise RefusedRequestError(f"the points of {FOREGROUND!r} need their class: send it as label")
        value = labels[name]
        points[value] = list(dict.fromkeys([*points.get(value, []), *_places(places, FOREGROUND)]))
    return points


def _places(value: Any, name: str) -> list[tuple[float, ...]]:
    if not isinstance(value, list) or not all(isinstance(place, list) and len(place) == 3 for place in value):
        raise RefusedRequestError(f"the points of {name!r} must be a list of [i, j, k], voxels of the scan")
    return list(dict.fromkeys(tuple(float(index) for index in place) for place in value))


@dataclass
class _Talk:
    """A scan that is being clicked on, with the weights that it was begun with."""

    predictor: Predictor
    weights: Stamp
    said: Points = field(default_factory=dict)
    answer: Answer | None = None
    alone: threading.Lock = field(default_factory=threading.Lock)
    """One request at a time; another scan's go on beside it."""

    def further(self, points: Points) -> Points | None:
        """The points that were not said yet; None where one that was said is gone."""
        if any(points.get(value, [])[: len(places)] != places for value, places in self.said.items()):
            return None
        new = {value: places[len(self.said.get(value, [])) :] for value, places in points.items()}
        return {value: places for value, places in new.items() if places}

    def forget(self) -> None:
        """What was said; the image need not be seen again."""
        self.said, self.answer = {}, None


class Clicks:
    """Answers clicks, and keeps what the network saw of the last scans, by their content.

    A click waits for others on the same scan, and not for another scan to be opened.

    Args:
        load: a model from its weights and the name of a device.
        kept: number of scans.
    """

    def __init__(self, load: Callable[[Path, str], LoadedModel], *, kept: int = KEPT) -> None:
        if kept < 1:
            raise ValueError(f"kept {kept} must be at least 1")
        self._load, self._kept = load, kept
        self._talks: OrderedDict[tuple[Path, str, str], _Talk] = OrderedDict()
        self._models: dict[tuple[Path, str], tuple[Stamp, LoadedModel]] = {}
        self._contents: dict[str, tuple[Stamp, str]] = {}
        self._kept_alone = threading.Lock()  # for what is kept
        self.seeing = threading.Lock()
        """Whoever looks at a whole scan: one at a time, for the memory that it takes."""

    def answer(
        self,
        scan: str | os.PathLike[str],
        points: Points,
        *,
        checkpoint: Path,
        device: str = "cpu",
        reset: bool = False,
    ) -> Answer:
        """The answer after all points of a scan.

        Args:
            scan: its file.
            points: all of them, by class value, in voxels of the scan's own grid.
            checkpoint: weights. A scan that was begun with earlier ones goes on with them until its points are taken
                back: a training beside does not cost its answers a second look at the image.
            device: of the network.
            reset: begin anew.

        Raises:
            RefusedRequestError: a point outside the scan, or a model that was not taught what points mean.
            DataError: the scan cannot be used.
        """
        talk = self._talk(scan, points, checkpoint, device, reset=reset)
        with talk.alone:
            # Without an answer the predictor may hold what is none of these points, such as scribbles.
            new = None if reset or talk.answer is None else talk.further(points)
            if new is None:
                talk.forget()  # first: a prediction that fails midway leaves nothing to go on from
            if talk.answer is None or new:
                asked = points if new is None else new
                pairs = [(place, value) for value, places in asked.items() for place in places]
                try:
                    with _refusing():
                        talk.answer = talk.predictor.predict(pairs, reset=new is None)
                except RefusedRequestError:  # nothing has changed then
                    raise
                except BaseException:  # such as too little memory: some of the points may be held to be said already
                    talk.forget()
                    raise
                talk.said = {value: list(places) for value, places in points.items()}
            return talk.answer

    def scribbled(
        self,
        scan: str | os.PathLike[str],
        scribbles: Sequence[tuple[NDArray[np.integer], int]],
        *,
        mask: NDArray[np.integer],
        checkpoint: Path,
        device: str = "cpu",
    ) -> Answer:
        """The answer after scribbles over an earlier label map.

        Args:
            scan: its file.
            scribbles: (voxels [N, 3], class value) each.
            mask: the label map so far, on the scan's own grid.
            checkpoint: as :meth:`answer` takes it.
            device: of the network.
        """
        talk = self._talk(scan, {}, checkpoint, device, reset=False)
        with talk.alone:
            talk.forget()
            lines = [(voxels.tolist(), value) for voxels, value in scribbles if len(voxels)]
            with _refusing():
                return talk.predictor.predict(scribbles=lines, mask=mask)

    def _talk(
        self, scan: str | os.PathLike[str], points: Points, checkpoint: Path, device: str, *, reset: bool
    ) -> _Talk:
        key = (checkpoint, device, self._content(scan))
        if (talk := self._known(key, points, reset=reset)) is not None:
            return talk
        with self.seeing:
            if (talk := self._known(key, points, reset=reset)) is not None:  # opened meanwhile, for somebody else
                return talk
            newest = _stamp(checkpoint)
            with self._kept_alone:
                self._talks.pop(key, None)
                while len(self._talks) >= self._kept:  # before there is another one
                    self._talks.popitem(last=False)
            predictor = Predictor(self._model(checkpoint, device, newest))
            with _refusing():
                predictor.model.require_prompted()
            predictor.set_image(scan)
            with self._kept_alone:
                talk = self._talks[key] = _Talk(predictor, newest)
            return talk

    def _known(self, key: tuple[Path, str, str], points: Points, *, reset: bool) -> _Talk | None:
        """A scan that was opened, unless it is to be looked at anew by newer weights."""
        with self._kept_alone:
            if (talk := self._talks.get(key)) is None:
                return None
            goes_on = bool(talk.said) and not reset and talk.further(points) is not None
            if not goes_on and talk.weights != _stamp(key[0]):
                return None
            self._talks.move_to_end(key)
            return talk

    def _model(self, checkpoint: Path, device: str, stamp: Stamp) -> LoadedModel:
        found = self._models.get((checkpoint, device))
        if found is None or found[0] != stamp:
            found = self._models[checkpoint, device] = stamp, self._load(checkpoint, device)
        return found[1]

    def _content(self, scan: str | os.PathLike[str]) -> str:
        """Read again only where the file has changed."""
        path, stamp = os.path.realpath(scan), _stamp(scan)
        known = self._contents.get(path)
        if known is None or known[0] != stamp:
            known = self._contents[path] = stamp, sha256_of(path)
        return known[1]


@contextmanager
def _refusing() -> Iterator[None]:
    """What a person said wrong is refused, with the reason."""
    try:
        yield
    except ValueError as error:
        raise RefusedRequestError(str(error)) from error


def _stamp(file: str | os.PathLike[str]) -> Stamp:
    stat = os.stat(file)
    return stat.st_mtime_ns, stat.st_size
