"""GET /api/images/...: a photo, its thumbnail, what is known of it; and photos by chance."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from streamer.serving.answers import PhotoInfo, PhotoName, Photos
from streamer.serving.refusal import Refusal
from streamer.serving.service import Service
from streamer.store import Photo

__all__ = ["router"]

router = APIRouter()

PhotoId = Annotated[int, Path(ge=1, le=2**63 - 1)]

_PICTURE = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}, "description": "The picture."}
_JPEG = {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}, "description": "The thumbnail."}
_UNCHANGED = {"description": "It is what the client has."}
# A browser keeps them and asks whether they have changed: a photo may be replaced at any time.
_REVALIDATED = "private, no-cache"
# Its address is the same while the photo is, and a changed photo has another id.
_KEPT = "private, max-age=300"


@router.get("/api/images/{number}", response_class=Response, responses={200: _PICTURE, 304: _UNCHANGED})
async def image(request: Request, number: PhotoId) -> Response:
    """A photo: its own bytes where browsers show its format, otherwise a JPEG of it."""
    service: Service = request.app.state.service
    photo = await _photo(service, number)
    opened = await service.shelf.opened(photo)
    headers = {"content-disposition": "inline", "cache-control": _REVALIDATED}
    if opened is None:
        return Response(await service.shelf.shown(photo), media_type="image/jpeg", headers=headers)
    if opened.etag is not None:
        headers["etag"] = opened.etag
    if opened.etag is not None and _has(request, opened.etag):
        opened.close()
        return Response(status_code=304, headers=headers)
    headers["content-length"] = str(opened.size)
    return StreamingResponse(service.shelf.pieces(opened), media_type=opened.media_type, headers=headers)


@router.get("/api/images/{number}/thumb", response_class=Response, responses={200: _JPEG, 304: _UNCHANGED})
async def thumb(request: Request, number: PhotoId) -> Response:
    """A thumbnail: JPEG, upright, 256 pixels on its longest side."""
    service: Service = request.app.state.service
    photo = await _photo(service, number)
    headers = {"cache-control": _KEPT, "etag": f'"{photo.content.hex()}"'}
    if _has(request, headers["etag"]):
        return Response(status_code=304, headers=headers)
    jpeg, headers["etag"] = await service.shelf.thumbnail(photo)
    return Response(jpeg, media_type="image/jpeg", headers=headers)


@router.get("/api/images/{number}/info")
async def image_info(request: Request, number: PhotoId) -> PhotoInfo:
    """Key, label and size of a photo."""
    service: Service = request.app.state.service
    photo = await _photo(service, number)
    size = await service.shelf.size(photo)
    width, height = size if size is not None else (None, None)
    name = PhotoName.of(photo)
    return PhotoInfo(id=name.id, key=name.key, label=name.label, width=width, height=height, bytes=photo.size)


@router.get("/api/random")
async def random(
    request: Request,
    count: Annotated[int, Query(ge=1, le=200)] = 24,
    seed: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None,
    label: Annotated[str | None, Query(max_length=1024)] = None,
) -> Photos:
    """Photos by chance; the same seed gives the same, as long as the library is the same."""
    service: Service = request.app.state.service
    drawn = await service.library.random(count, seed, label or None)
    return Photos(images=[PhotoName.of(photo) for photo in drawn])


async def _photo(service: Service, number: int) -> Photo:
    photo = await service.library.photo(number)
    if photo is None:
        raise Refusal(404, f"there is no photo {number} in the library")
    return photo


def _has(request: Request, etag: str) -> bool:
    """Whether the client has what it asks for."""
    known = request.headers.get("if-none-match", "")
    return etag in (each.strip().removeprefix("W/") for each in known.split(","))
