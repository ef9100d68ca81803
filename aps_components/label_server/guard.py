"""Who may ask MONAI Label, and what: a layer of ASGI around its server.

MONAI Label 0.8.5 answers every web page in the name of whoever has it open (any Origin, with credentials), any name of
the machine (any Host, as DNS rebinding needs it), and everybody who reaches the port. Here a request must carry the
token that ``aps label`` printed: as the first part of the path, which 3D Slicer's module keeps before all that it
appends, as a bearer, or, for the pages of OHIF, in a cookie that the address with the token sets.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote

from aps_components.label_server.parameters import (
    RefusedRequestError,
    check_choice,
    check_inference,
    check_name,
    check_tag,
    check_training,
)
from aps_components.plain_json import parse_json

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_OF_BODY = 1 << 20  # of JSON
MOST_FIELDS = 64  # of a query
NAMES = {"image": "image", "id": "id", "label": "label", "session_id": "session_id", "model": "model"}
# What the viewers ask; everything else of MONAI Label (new weights for a model, pathology, reloading) is not served.
ROUTES = {
    "GET": r"/|/(info|train|scoring|logs|datastore|docs|auth)/?|/favicon\.ico|/openapi\.json|/static/.+|/logs/gpu|"
    r"/batch/infer|/datastore/(image|label)(/info)?|/datastore/dataset|/session/[^/]+|/model/(info/)?[^/]+|"
    r"/ohif(/.*)?|/proxy/dicom/.+",
    "POST": r"/infer/[^/]+|/batch/infer/[^/]+|/train/?|/train/[^/]+|/activelearning/[^/]+|/scoring/?|/scoring/[^/]+|"
    r"/proxy/dicom/.+",
    "PUT": r"/datastore/?|/datastore/(image|label)(/info)?|/datastore/updatelabelinfo|/session/?",
    "DELETE": r"/train/?|/scoring/?|/batch/infer|/session/[^/]+|/datastore/?|/datastore/(image|label)",
}
ROUTES["HEAD"] = ROUTES["GET"]
PANEL = "MONAILABEL_SERVER_URL"  # the cookie in which OHIF's panel keeps the address of MONAI Label
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


class Guard:
    """Refuses what is not for this server, and hands on the rest.

    Args:
        app: MONAI Label's.
        token: that a request must carry.
        host: address that the server listens on; any other than this machine's own opens it to the network.
    """

    def __init__(self, app: App, *, token: str, host: str = LOOPBACK[0]) -> None:
        if len(token) < 16:
            raise ValueError(f"a token of {len(token)} letters can be guessed: give 16 at least")
        self.app, self.token = app, token
        self.names = {*LOOPBACK, host.lower()}
        self.open = host.lower() not in LOOPBACK
        if self.open:
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self.cookie = f"aps_label_{hashlib.sha256(token.encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            headers = _headers(scope)
            self._check_sender(headers)
            inner, prefixed = self._with_token(scope, headers)
            if prefixed and scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
                await self._welcome(inner, headers, send)
                return
            path = inner["path"][len(inner.get("root_path", "")) :] or "/"
            _check_route(scope["method"], path)
            _check_query(scope.get("query_string", b""))
            receive = await _checked(scope["method"], path, headers, receive)
        except RefusedRequestError as error:
            await _answer(send, error.status, {"detail": str(error)})
            return
        # What says who asks is for the guard alone: MONAI Label hands headers on to an archive.
        kept = [pair for pair in inner["headers"] if pair[0].lower() not in (b"cookie", b"authorization")]
        await self.app({**inner, "headers": kept}, receive, send)

    def _check_sender(self, headers: dict[str, str]) -> None:
        host = _name_of(headers.get("host", ""))
        if host not in self.names and not (self.open and _is_address(host)):
            raise RefusedRequestError("this server is not of that name (Host); ask it by its address", 403)
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (
            f"{kind}://{headers['host'].lower()}" for kind in ("http", "https")
        ):
            raise RefusedRequestError("a page of another site (Origin) may not ask this server", 403)
        # Pictures and scripts that another site embeds have no Origin, but say this.
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
            raise RefusedRequestError("a page of another site may not ask this server", 403)

    def _with_token(self, scope: Scope, headers: dict[str, str]) -> tuple[Scope, bool]:
        """The request as MONAI Label shall see it, and whether its path begins with the token."""
        first = scope["path"].split("/", 2)[1] if scope["path"].startswith("/") else ""
        if self._is_token(first):
            return {**scope, "root_path": f"{scope.get('root_path', '')}/{first}"}, True
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(bearer.strip()):
            return scope, False
        if self._is_token(self._from_cookie(headers.get("cookie", ""))):
            if scope["method"] not in ("GET", "HEAD") and "origin" not in headers:
                raise RefusedRequestError("a page must say where it is from (Origin)", 403)
            return scope, False
        raise RefusedRequestError(
            "the token is missing or wrong: ask by the whole address that `aps label` printed", 401
        )

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode("utf-8", "replace"), self.token.encode())

    def _from_cookie(self, text: str) -> str:
        try:
            found = SimpleCookie(text).get(self.cookie)
        except CookieError:
            return ""
        return found.value if found is not None else ""

    async def _welcome(self, scope: Scope, headers: dict[str, str], send: Send) -> None:
        """A browser: the token goes from the address, which it shows and remembers, into a cookie.

        Another cookie tells OHIF's panel where this server is; it takes port 8000 for granted.
        """
        place = scope["path"][len(scope["root_path"]) :] or "/"
        place = "/" + place.lstrip("/\\")  # never to another server
        query = scope.get("query_string", b"").decode("latin-1")
        cookie = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"
        address = quote(f"{scope.get('scheme', 'http')}://{headers['host']}/", safe="")
        panel = f"{PANEL}={address}; Path=/ohif; SameSite=Strict"
        location = quote(place) + (f"?{query}" if query else "")
        fields = [("location", location), ("set-cookie", panel), ("set-cookie", cookie), ("cache-control", "no-store")]
        await _answer(send, 303, {}, fields)


def _headers(scope: Scope) -> dict[str, str]:
    """By lower-case names; what decides who asks is there once at most."""
    found: dict[str, str] = {}
    for key, value in scope.get("headers", []):
        name = key.decode("latin-1").lower()
        if name in found and name in ("host", "origin", "authorization", "content-type", "content-length"):
            raise RefusedRequestError(f"the header {name} is there twice", 400)
        separator = "; " if name == "cookie" else ", "
        text = value.decode("latin-1")
        found[name] = f"{found[name]}{separator}{text}" if name in found else text
    return found


def _name_of(host: str) -> str:
    """Of a Host header without its port; empty where it is none."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:/@\[\]\s]+))(?::\d{1,5})?", host)
    return (match[1] or match[2]).lower().rstrip(".") if match else ""


def _is_address(host: str) -> bool:
    """Numbers, which no page of another site can give a meaning of its own."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _check_route(method: str, path: str) -> None:
    parts = path.split("/")
    # The path is decoded: a "%" in it is encoded twice, and an archive behind the proxy would decode it once more.
    if any(part in (".", "..") for part in parts) or any(text in path for text in ("\\", "\x00", "//", "%")):
        raise RefusedRequestError("a path that leads elsewhere", 400)
    if method not in ROUTES or not re.fullmatch(ROUTES[method], path):
        raise RefusedRequestError(f"{method} of this is not served", 403)


def _check_query(query: bytes) -> None:
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise RefusedRequestError(f"more than {MOST_FIELDS} fields in the address", 400) from error
    keys = [key for key, _ in pairs]
    for key, value in pairs:
        if keys.count(key) > 1:
            raise RefusedRequestError(f"{key[:40]} is there twice")
        if key in NAMES and value:
            check_name(value, what=key)
        if key == "tag" and value:
            check_tag(value)


async def _checked(method: str, path: str, headers: dict[str, str], receive: Receive) -> Receive:
    """The same body to read again, once it was seen to be what MONAI Label takes there."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    root = path.split("/")[1]
    if method in ("PUT", "POST") and root in ("infer", "datastore", "session"):
        if kind and kind not in FORMS:
            raise RefusedRequestError(f"a form is wanted, not {kind[:40]}", 415)
        return receive  # its parameters are looked at where MONAI Label has taken the form apart
    if method != "POST" or root not in ("train", "batch", "activelearning", "scoring"):
        return receive
    body = await _body(receive)
    if body:
        if kind != "application/json":
            raise RefusedRequestError("JSON is wanted (Content-Type: application/json)", 415)
        _check_json(path, parse_json(body, name="the request", mend="send a JSON object", error=RefusedRequestError))
    return _again(body, receive)


def _check_json(path: str, params: Any) -> None:
    root, _, name = path.strip("/").partition("/")
    if params is None:
        return
    if root in ("train", "scoring") and not name:  # of several models or methods, by their names
        if not isinstance(params, dict):
            raise RefusedRequestError("a JSON object is wanted: parameters by model")
        for key, inner in params.items():
            if key == "client_id":
                check_choice({key: inner})
            else:
                check_name(key, what="model")
                check_training(inner) if root == "train" else check_choice(inner)
    elif root == "train":
        check_training(params)
    elif root == "batch":
        check_inference(params)
    else:
        check_choice(params)


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedRequestError("the connection ended", 400)
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
        if sum(map(len, parts)) > MOST_OF_BODY:
            raise RefusedRequestError("too long", 413)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    given = False

    async def once() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


async def _answer(send: Send, status: int, content: Any, headers: Iterable[tuple[str, str]] = ()) -> None:
    body = json.dumps(content).encode()
    fields = [("content-type", "application/json"), ("content-length", str(len(body))), *headers]
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
