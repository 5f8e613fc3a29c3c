"""What every request passes first: is the server meant, may the client ask, is there room; and errors in one form."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamer.serving.hosts import HostList
from streamer.serving.refusal import Refusal, new_error_id, refusal_body
from streamer.serving.settings import MOST_HEAD_BYTES, ServeSettings

__all__ = ["Guard", "cookie_name", "token_is_right"]

_LOG = logging.getLogger(__name__)

_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=(), payment=(), usb=()"),
    (b"x-frame-options", b"DENY"),
]
# What another page may link to: a photo, opened as a page of its own.
_PHOTO = re.compile(r"/api/images/[0-9]+")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# How long, and how much, is taken from a client that goes on sending after it was refused: were the connection closed
# at once, its system would throw the answer away unread.
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 4 * 2**20


def cookie_name(scope: Scope) -> str:
    """Name of the cookie that carries the token: browsers keep cookies by host, and servers here differ by port."""
    return f"streamer_token_{scope['server'][1]}"


def token_is_right(given: str, token: str) -> bool:
    """Compare in a time that tells nothing about the token."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


class Guard:
    """ASGI middleware around all of the application.

    Parameters
    ----------
    app : ASGI application
    settings : ServeSettings
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app = app
        self._settings = settings
        self._hosts = HostList(settings.host, settings.allowed_hosts)
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        self._under_way += 1
        try:
            self._check(scope)
            await self._app(scope, receive, send_with_headers)
        except Refusal as refusal:
            if started:
                raise
            await _refuse(refusal, scope, receive, send_with_headers)
        except Exception:  # noqa: BLE001 - a request that fails is answered, and is no end of the server
            error_id = new_error_id()
            _LOG.exception("error %s: %s %s", error_id, scope["method"], ascii(scope["path"]))
            if not started:
                await _send_error(500, "the server failed; its log says why", error_id, {}, send_with_headers)
        finally:
            self._under_way -= 1

    def _check(self, scope: Scope) -> None:
        # h11 bounds a head that comes in pieces, and takes one that comes whole, up to what a socket is read by.
        head_bytes = len(scope["raw_path"]) + len(scope["query_string"])
        if head_bytes + sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEAD_BYTES:
            raise Refusal(431, f"address and headers are larger than {MOST_HEAD_BYTES} bytes", close=True)
        headers = _first_of_each(scope)
        host = headers.get("host", "")
        if not self._hosts.allows(host):
            raise Refusal(
                421,
                "this server does not answer to that name; if it should, start it with --allowed-host NAME",
                close=True,
            )
        if self._under_way > self._settings.max_requests:
            raise Refusal(503, "too many requests at the same time; try again in a moment", retry_seconds=1, close=True)
        self._check_origin(scope, headers, host)
        if self._settings.token is not None and _is_private(scope["path"]):
            self._check_token(scope, headers, self._settings.token)

    def _check_origin(self, scope: Scope, headers: dict[str, str], host: str) -> None:
        """A page of another site must not have the reader's browser search, or start long work."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        unsafe = scope["method"] not in _SAFE_METHODS
        foreign = origin is not None and not self._hosts.is_own_origin(origin, host)
        linked = (
            _PHOTO.fullmatch(scope["path"]) is not None
            and headers.get("sec-fetch-mode") == "navigate"
            and headers.get("sec-fetch-dest") == "document"  # and no frame, which that page could fill with it
        )
        if (foreign or site not in ("same-origin", "none")) and (unsafe or (_is_api(scope["path"]) and not linked)):
            raise Refusal(403, "asked from a page of another site", close=True)

    def _check_token(self, scope: Scope, headers: dict[str, str], token: str) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = _cookie(headers.get("cookie", ""), cookie_name(scope))
        if not token_is_right(given.strip(), token):
            raise Refusal(401, "a token is needed: open the address that 'streamer serve' printed", close=True)


def _is_api(path: str) -> bool:
    return path == "/api" or path.startswith("/api/")


def _is_private(path: str) -> bool:
    """Whether a path gives anything of the library: the page's own files and the health do not."""
    return not (path in ("/", "/api/health") or path.startswith("/static/"))


def _first_of_each(scope: Scope) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    return headers


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found is not None else ""


async def _refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    error_id = new_error_id()
    _LOG.info("%d %s %s: %s", refusal.status, error_id, ascii(scope["path"]), refusal.message)
    headers = dict(refusal.headers)
    if refusal.close:
        headers["connection"] = "close"
    await _send_error(refusal.status, refusal.message, error_id, headers, send, more=refusal.close)
    if refusal.close:
        await _linger(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_error(
    status: int, message: str, error_id: str, headers: dict[str, str], send: Send, more: bool = False
) -> None:
    body = refusal_body(status, message, error_id)
    fields = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "cache-control": "no-store",
        **headers,
    }
    encoded = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _linger(receive: Receive) -> None:
    """Take, for a moment, what a refused client still sends."""

    async def drained() -> None:
        taken = 0
        more = True
        while more and taken < _LINGER_BYTES:
            message: dict[str, Any] = dict(await receive())
            taken += len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)

    try:
        await asyncio.wait_for(drained(), _LINGER_SECONDS)
    except asyncio.TimeoutError:
        return
