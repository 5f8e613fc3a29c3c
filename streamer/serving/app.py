"""The application: routes, one form of errors, the guard around them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from streamer import __version__
from streamer.serving import routes_library, routes_page, routes_photos, routes_search
from streamer.serving.guard import Guard
from streamer.serving.page_files import PageFile, page_files
from streamer.serving.refusal import ErrorAnswer, Refusal
from streamer.serving.service import Service

__all__ = ["Admission", "create_app"]

_ERRORS = {
    400: "The request is malformed, or ended early.",
    401: "A token is needed.",
    403: "Asked from a page of another site.",
    404: "There is no such photo.",
    408: "The request came too slowly, or a picture took too long to decode.",
    410: "The photo's file is gone.",
    413: "The body is too large.",
    415: "The body is no picture, and no JSON.",
    421: "The server does not answer to that name.",
    422: "A value is wrong, or a picture cannot be read.",
    503: "Too much is to be done, or the server is starting: try again after `Retry-After` seconds.",
}


class Admission:
    """Lets so many searches in at one time.

    Parameters
    ----------
    most : int
    """

    def __init__(self, most: int) -> None:
        self._left = most

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place in the body.

        Raises
        ------
        Refusal
            There is none.
        """
        if self._left <= 0:
            raise Refusal(503, "too many searches at the same time; try again in a moment", retry_seconds=1, close=True)
        self._left -= 1
        try:
            yield
        finally:
            self._left += 1


def create_app(service: Service, page: Mapping[str, PageFile] | None = None) -> FastAPI:
    """Make the ASGI application for a service.

    Parameters
    ----------
    service : Service
    page : mapping of str to PageFile, optional
        Files of the page; those of the package by default.

    Returns
    -------
    FastAPI
        Its OpenAPI description is at ``/api/openapi.json``.
    """
    app = FastAPI(
        title="streamer",
        description="Search a library of photos by picture.",
        version=__version__,
        docs_url=None,  # they load from another host
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.service = service
    app.state.page = page_files() if page is None else page
    app.state.searches = Admission(service.settings.max_searches)
    app.add_middleware(Guard, settings=service.settings)
    app.add_exception_handler(RequestValidationError, _refuse_values)
    app.add_exception_handler(HTTPException, _refuse_http)
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorAnswer, "description": text} for status, text in _ERRORS.items()
    }
    for module in (routes_search, routes_photos, routes_library):
        app.include_router(module.router, responses=errors, dependencies=[Depends(_when_ready)])
    app.include_router(routes_page.router)
    return app


async def _when_ready(request: Request) -> None:
    service: Service = request.app.state.service
    if not service.ready.is_set():
        raise Refusal(503, "network and index are being loaded", retry_seconds=1)


async def _refuse_values(request: Request, error: Exception) -> NoReturn:
    assert isinstance(error, RequestValidationError)
    faults = [f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors()[:3]]
    raise Refusal(422, "; ".join(faults)[:500]) from None


async def _refuse_http(request: Request, error: Exception) -> NoReturn:
    assert isinstance(error, HTTPException)
    refusal = Refusal(error.status_code, str(error.detail))
    refusal.headers.update(error.headers or {})
    raise refusal from None
