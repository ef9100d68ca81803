"""What a viewer asks of a MONAI Label server, over HTTP."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.5


class LabelRequestError(RuntimeError):
    """An answer other than 200; the message holds the server's.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class LabelClient:
    """Segment, label and train over HTTP, as 3D Slicer's module does.

    Args:
        url: of the server, such as http://127.0.0.1:8000.
        timeout: seconds to wait for an answer.
    """

    def __init__(self, url: str, *, timeout: float = 600.0) -> None:
        self.url, self.timeout = url.rstrip("/"), timeout
        # The server is on this machine or beside it: a proxy for the web, as http_proxy names it, does not reach it.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def info(self) -> dict[str, Any]:
        """Models, trainers, labels and the state of the datastore."""
        return dict(json.loads(self._ask("GET", "/info/")))

    def infer(self, model: str, image: str, **params: Any) -> bytes:
        """The label map of a scan of the datastore, as the content of a NIfTI file.

        Args:
            model: of the server.
            image: the scan's name, without .nii.gz.
            params: what the model's options are to be.
        """
        body = urllib.parse.urlencode({"params": json.dumps(params)}).encode()
        query = urllib.parse.urlencode({"image": image, "output": "image"})
        return self._ask("POST", f"/infer/{model}?{query}", body, "application/x-www-form-urlencoded")

    def put_label(
        self,
        image: str,
        label: str | Path,
        *,
        tag: str = "final",
        bundle: str | None = None,
        names: Sequence[str] = (),
    ) -> None:
        """Hand in a label.

        Args:
            image: the scan's name, without .nii.gz.
            label: a NIfTI file on the scan's grid, with the values of the bundle's label files, or numbered by names.
            tag: "final" counts as finished; of "partial" only slices that hold something are labelled.
            bundle: that it is of; of several that are served no other learns from it, and none where it is not said.
            names: of its segments, that with the value 1 first.
        """
        segments = [{"name": name} for name in names]
        params = json.dumps({"label_info": segments, **({} if bundle is None else {"bundle": bundle})})
        boundary = uuid.uuid4().hex
        name = "label" + "".join(Path(label).suffixes[-2:])
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\n\r\n{params}\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="label"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        body = head.encode() + Path(label).read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        query = urllib.parse.urlencode({"image": image, "tag": tag})
        self._ask("PUT", f"/datastore/label?{query}", body, f"multipart/form-data; boundary={boundary}")

    def train(self, model: str, *, wait: bool = True, sync: bool = False, **params: Any) -> dict[str, Any]:
        """Train on the labels there are.

        Args:
            model: of the server.
            wait: until it is done; else give the task back at once.
            sync: in the server's own process, which answers nothing else in the meantime.
            params: in the place of the model's own defaults, such as ``max_epochs=10``; all defaults are sent, too, as
                Slicer's module sends them.

        Returns:
            The task, {} with ``sync``; "status" is DONE, ERROR or STOPPED, "details" the last lines of the log.
        """
        config = self.info()["trainers"][model]["config"]
        defaults = {key: value[0] if isinstance(value, list) else value for key, value in config.items()}
        body = json.dumps({**defaults, **params}).encode()
        answer = json.loads(self._ask("POST", f"/train/{model}?run_sync={sync}", body, "application/json"))
        return self.wait_for_training() if wait and not sync else dict(answer)

    def wait_for_training(self) -> dict[str, Any]:
        """The newest training task, once it has ended."""
        while (task := self.training())["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(POLL_SECONDS)
        return task

    def training(self) -> dict[str, Any]:
        """The newest training task."""
        return dict(json.loads(self._ask("GET", "/train/")))

    def stop_training(self) -> None:
        """Kill the training that runs."""
        self._ask("DELETE", "/train/")

    def _ask(self, method: str, path: str, body: bytes | None = None, content_type: str | None = None) -> bytes:
        headers: Mapping[str, str] = {"Content-Type": content_type} if content_type else {}
        request = urllib.request.Request(self.url + path, data=body, headers=dict(headers), method=method)
        try:
            with self._opener.open(request, timeout=self.timeout) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:500]
            raise LabelRequestError(f"{method} {path}: {error.code} {said}", error.code) from error
