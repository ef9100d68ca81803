"""MONAI Label 0.8.5 with checks at the places where it takes a request apart: the forms, the datastore, archives.

Its functions are replaced by ones that look first and then call them. Nothing of it is copied.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from aps_components.errors import in_a_line, is_meant_for_a_user, root_cause
from aps_components.label_server.clicks import INTERACTIVE, SCRIBBLED
from aps_components.label_server.handed_in import Kept, finished_info, handed_in
from aps_components.label_server.label_names import Served, served_bundles
from aps_components.label_server.parameters import (
    RefusedRequestError,
    check_inference,
    check_info,
    check_name,
    check_tag,
)
from aps_components.plain_json import MOST_BYTES, parse_json
from aps_components.terminal import shown
from aps_components.unpacking import DAMAGES, Member, archive_fault, tar_member, zip_members

logger = logging.getLogger(__name__)

SUBMIT = "ohif_submit.js"
UNUSABLE = 422  # HTTP: understood, and cannot be done with this scan
MOST_FILES = 20_000
MOST_UNPACKED = 8 << 30


def install() -> None:
    """Replace them, before the server is made."""
    from monailabel.datastore.local import LocalDatastore
    from monailabel.endpoints import activelearning, datastore, infer, ohif, session
    from monailabel.utils import sessions

    infer.run_inference = refusing(_inference(infer.run_inference))
    _beside_others(infer.router, infer.api_run_inference)
    for name in ("add_image", "save_label", "update_image_info", "update_label_info"):
        setattr(datastore, name, refusing(_with_params(getattr(datastore, name))))
    datastore.download_image = refusing(datastore.download_image)  # an archive's may be unreadable
    activelearning.sample = refusing(activelearning.sample)
    session.create_session = refusing(session.create_session)
    ohif.get_ohif = _with_submit(ohif.get_ohif)
    sessions.shutil = _Unpacking(sessions.shutil)
    LocalDatastore.save_label = _save_label(LocalDatastore.save_label)
    LocalDatastore.add_image = _add_image(LocalDatastore.add_image)


def refusing(function: Callable[..., Any]) -> Callable[..., Any]:
    """A refusal becomes an answer that says why, and so does a scan that cannot be read."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        from fastapi import HTTPException

        try:
            return function(*args, **kwargs)
        except RefusedRequestError as error:
            raise HTTPException(status_code=error.status, detail=str(error)) from error
        except HTTPException:
            raise
        except Exception as error:
            if not is_meant_for_a_user(error):
                raise
            logger.exception("refused")
            raise HTTPException(status_code=UNUSABLE, detail=in_a_line(root_cause(error))) from error

    return call


def parsed_form(text: Any) -> Any:
    """The parameters of a form, which come as a text of JSON."""
    if not isinstance(text, str) or len(text) > MOST_BYTES:
        raise RefusedRequestError("the parameters of a form must be a text of JSON")
    return parse_json(text or "{}", name="params", mend="send a JSON object", error=RefusedRequestError)


def known_image(datastore: Any, image: str) -> str:
    """The name of a scan, which must be one of the datastore's: not a file that lies somewhere."""
    check_name(image, what="image")
    if not datastore.get_image_uri(image):
        raise RefusedRequestError(f"there is no scan {image!r}", 404)
    return image


def unpack(archive: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """A zip or a tar into a folder, and nothing outside it.

    Raises:
        RefusedRequestError: it is neither, or holds links, devices, names that lead out, or too much.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                _refuse_members(zip_members(zipped), archive)
                zipped.extractall(folder)
        else:
            with tarfile.open(archive) as tarred:
                members = list(_bounded(tarred))
                _refuse_members([tar_member(one) for one in members], archive)
                for one in members:
                    one.mode, one.uid, one.gid, one.uname, one.gname = 0o700 if one.isdir() else 0o600, 0, 0, "", ""
                tarred.extractall(folder, members)  # each of them was looked at
    except RefusedRequestError:
        raise
    except (*DAMAGES, OSError) as error:
        raise RefusedRequestError(f"the archive cannot be unpacked ({type(error).__name__}); send it again") from error


def _bounded(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for number, member in enumerate(archive):
        if number >= MOST_FILES:
            raise RefusedRequestError(f"the archive holds more than {MOST_FILES} files")
        yield member


def _refuse_members(members: Sequence[Member], archive: str | os.PathLike[str]) -> None:
    size = os.path.getsize(archive)
    if fault := archive_fault(members, size=size, most_files=MOST_FILES, most_bytes=MOST_UNPACKED):
        raise RefusedRequestError(f"the archive is not unpacked: {shown(fault)}")


class _Unpacking:
    """``shutil`` for the sessions, whose archives are unpacked by :func:`unpack`."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def unpack_archive(self, archive: str, folder: str) -> None:
        unpack(archive, folder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _with_submit(function: Callable[..., Any]) -> Callable[..., Any]:
    """OHIF's page with a script of ours, which adds buttons to hand a label in."""

    @functools.wraps(function)
    def serve(path: str) -> Any:
        from fastapi.responses import FileResponse, HTMLResponse

        if path == SUBMIT:
            return FileResponse(Path(__file__).with_name(SUBMIT), media_type="text/javascript")
        answer = function(path)
        if Path(answer.path).name != "index.html":
            return answer
        page = Path(answer.path).read_text(encoding="utf-8")
        return HTMLResponse(page.replace("</head>", f'<script defer src="/ohif/{SUBMIT}"></script></head>', 1))

    return serve


def _beside_others(router: Any, endpoint: Callable[..., Any]) -> None:
    """An endpoint that computes for seconds runs in a thread: else no other request is answered meanwhile.

    It is a coroutine that never waits, so that the server's one loop would do nothing else.
    """

    def call(**given: Any) -> Any:
        return asyncio.run(endpoint(**given))

    call.__signature__ = inspect.signature(endpoint)  # type: ignore[attr-defined]  # what the server fills in
    for route in router.routes:
        if route.endpoint is endpoint:
            route.endpoint = call


def _refuse_missing(offered: Any, params: Any) -> None:
    """Weights that the model's folder lacks: MONAI Label's own task would take others in their place."""
    wanted, known = params.get("model_filename"), offered.get("model_filename") if isinstance(offered, dict) else None
    wanted = wanted[0] if isinstance(wanted, list) and wanted else wanted
    if wanted and known and wanted not in known:
        raise RefusedRequestError(f"there are no weights {wanted!r}; there are: {', '.join(known)}", 404)


def _inference(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(background_tasks: Any, model: str, image: str, session_id: str, params: Any, *rest: Any) -> Any:
        from monailabel.interfaces.utils.app import app_instance

        check_name(model, what="model")
        app = app_instance()
        if model not in app._infers:
            raise RefusedRequestError(f"there is no model {model!r}; there are: {', '.join(sorted(app._infers))}", 404)
        # Slicer's module names the classes of all models of the server in each request.
        check_inference(parsed_form(params), classes={name for task in app._infers.values() for name in task.labels})
        _refuse_missing(app._infers[model].config(), parsed_form(params))
        if image:
            known_image(app.datastore(), image)
        # Clicks wait by themselves, for what they need alone.
        automatic = not model.endswith((INTERACTIVE, SCRIBBLED))
        with app.clicks.seeing if automatic else nullcontext():
            return function(background_tasks, model, image, session_id, params, *rest)

    return run


def _with_params(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of the functions that store something: the text among their arguments that is JSON is looked at."""
    names = function.__code__.co_varnames[: function.__code__.co_argcount]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        for key in ("params", "info"):
            if key in given:
                check_info(parsed_form(given[key]), what=key)
        for key in ("image", "label"):
            if isinstance(given.get(key), str):
                check_name(given[key], what=key)
        if given.get("tag"):
            check_tag(given["tag"])
        return function(*args, **kwargs)

    return call


def _save_label(function: Callable[..., Any]) -> Callable[..., Any]:
    """Also what a model answered, where that is stored."""

    @functools.wraps(function)
    def save(self: Any, image_id: str, label_filename: str, label_tag: str, label_info: Any, *rest: Any) -> Any:
        from monailabel.config import settings

        if isinstance(label_info, Kept):  # an archive has looked at it
            return function(self, image_id, label_filename, label_tag, dict(label_info), *rest)
        known_image(self, image_id)
        check_tag(label_tag)
        folders = served_bundles(settings.MONAI_LABEL_APP_DIR, settings.MONAI_LABEL_APP_CONF)
        served = [Served.of(folder) for folder in folders.values()]
        with handed_in(
            *(label_filename, label_info, served),
            tag=label_tag,
            scan=self.get_image_uri(image_id),
            former=self.get_label_info(image_id, label_tag),
            finished=finished_info(self, image_id),
        ) as (file, kept, _):
            return function(self, image_id, file, label_tag, dict(kept), *rest)

    return save


def _add_image(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def add(self: Any, image_id: str, image_filename: str, image_info: Any) -> Any:
        from monailabel.datastore.local import LocalDatastore
        from monailabel.utils.others.generic import file_checksum

        _, ending = self._to_id(os.path.basename(image_filename))
        if ending not in [pattern.replace("*", "") for pattern in self._extensions]:
            raise RefusedRequestError(f"{ending or 'no ending'}: none of the files that scans are here")
        if image_id:
            check_name(image_id, what="image")
            there = LocalDatastore.get_image_uri(self, image_id)  # an archive's own would fetch it, and add it
            if there and os.path.isfile(there) and file_checksum(there) != file_checksum(image_filename):
                raise RefusedRequestError(f"there is another scan {image_id!r} already: give this one a new name", 409)
            folder = self._datastore.image_path()
            target = os.path.join(folder, f"{image_id}{ending}")
            if os.path.realpath(target) != os.path.join(os.path.realpath(folder), f"{image_id}{ending}"):
                raise RefusedRequestError(f"{image_id!r} is a link to a place elsewhere")
        return function(self, image_id, image_filename, image_info)

    return add
