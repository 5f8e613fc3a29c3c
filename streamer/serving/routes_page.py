"""GET / and /static/...: the page itself."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse

from streamer.serving.guard import cookie_name, token_is_right
from streamer.serving.page_files import PageFile
from streamer.serving.refusal import Refusal

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_COOKIE_SECONDS = 30 * 24 * 3600


@router.get("/")
async def index(request: Request, token: Annotated[str | None, Query(max_length=512)] = None) -> Response:
    """The page; opened with the token once, the browser remembers it."""
    wanted = request.app.state.service.settings.token
    if token is not None:
        if wanted is not None and not token_is_right(token, wanted):
            raise Refusal(401, "that is not the token of this server; open the address that it printed")
        answer = RedirectResponse("/", 303, {"cache-control": "no-store"})
        if wanted is not None:
            name = cookie_name(request.scope)
            answer.set_cookie(name, wanted, max_age=_COOKIE_SECONDS, httponly=True, samesite="strict", path="/")
        return answer
    return _answer(request, "index.html")


@router.get("/static/{name}")
async def static(request: Request, name: Annotated[str, Path(max_length=100)]) -> Response:
    """A file of the page."""
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    file: PageFile | None = request.app.state.page.get(name)
    if file is None:
        raise Refusal(404, "there is no such page")
    headers = {"etag": file.etag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match", "").removeprefix("W/") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.data, media_type=file.media_type, headers=headers)
