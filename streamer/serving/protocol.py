"""HTTP/1.1 on a connection, with limits for clients that are slow, do not read, or are too many.

uvicorn waits for ever for the head of a first request, and for a client to take up an answer; both are bounded here.
"""

from __future__ import annotations

import asyncio
import http
import logging
import sys

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from streamer.serving.refusal import new_error_id, refusal_body
from streamer.serving.settings import ServeSettings

__all__ = ["limited_protocol"]

_LOG = logging.getLogger(__name__)


def limited_protocol(settings: ServeSettings) -> type[asyncio.Protocol]:
    """The protocol for uvicorn, with the limits of these settings."""

    class LimitedProtocol(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None
        _stall_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > settings.max_connections:
                self._refuse(503, "too many connections; try again in a moment", "retry-after: 1\r\n")
            else:
                self._expect_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._have_head()
            self._have_reader()
            super().resume_writing()  # whoever waits to write finds out
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            if self.transport.is_closing():
                return
            if self._answering():
                self._have_head()
            elif self._head_timer is None:  # the head of a further request has begun to arrive
                self._expect_head()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._expect_reader()

        def resume_writing(self) -> None:
            super().resume_writing()
            # Of a connection that is closing, the rest is to be taken up by the time that was set when it was closed:
            # this is called as soon as a little of it was, and never again.
            if not self.transport.is_closing():
                self._have_reader()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.transport.is_closing():
                self._expect_reader()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._expect_reader()

        def send_400_response(self, msg: str) -> None:
            error = sys.exc_info()[1]  # called where h11 has raised it
            status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
            self._refuse(status, "this is no valid HTTP request" if status == 400 else "the headers are too large")

        def _answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _head_is_late(self) -> None:
            self._head_timer = None
            self._refuse(408, f"the request did not arrive within {settings.header_seconds:g} s")

        def _refuse(self, status: int, message: str, header: str = "") -> None:
            """Answer outside of any request, and close."""
            if self._answering() and self.cycle.response_started:
                self.transport.abort()  # in the middle of another answer there is nothing to say
                return
            error_id = new_error_id()
            _LOG.info("%d %s: %s", status, error_id, message)
            body = refusal_body(status, message, error_id)
            phrase = http.HTTPStatus(status).phrase if status in http.HTTPStatus._value2member_map_ else "Error"
            head = (
                f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
                f"{header}x-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
            self.transport.close()
            self._expect_reader()

        def _expect_head(self) -> None:
            self._head_timer = self.loop.call_later(settings.header_seconds, self._head_is_late)

        def _have_head(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _have_reader(self) -> None:
            if self._stall_timer is not None:
                self._stall_timer.cancel()
                self._stall_timer = None

        def _expect_reader(self) -> None:
            """Give the client so long to take up what was sent."""
            if self._stall_timer is None:
                self._stall_timer = self.loop.call_later(settings.stall_seconds, self.transport.abort)

    return LimitedProtocol
