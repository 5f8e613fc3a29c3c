"""GET /api/health, info, duplicates and map: what is said of the whole library."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from streamer import __version__
from streamer.errors import StreamerError
from streamer.serving.answers import MOST_K, DuplicateGroup, Duplicates, Health, Hit, Info, LabelCount, Working
from streamer.serving.grouping import MOST_GROUPS, Groups
from streamer.serving.refusal import ErrorAnswer, Refusal
from streamer.serving.service import Service

__all__ = ["router"]

router = APIRouter()

# How long the request that begins a piece of work waits for it, before it is told to ask again.
_PATIENCE_SECONDS = 0.5
_MAP_PATIENCE_SECONDS = 20.0
_AGAIN_SECONDS = 1
_MAP = {
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    "description": "Little-endian: uint32 n, uint32 number of labels; n uint32 ids; n float32 x, n float32 y, in "
    "[-1, 1]; n uint16 numbers of labels in the order of /api/info, 65535 for none.",
}


@router.get("/api/health", responses={503: {"model": ErrorAnswer}})
async def health(request: Request) -> Health:
    """Whether network and index are loaded; 503 before."""
    service: Service = request.app.state.service
    if not service.ready.is_set():
        raise Refusal(503, "network and index are being loaded", retry_seconds=1)
    number, _, _ = await asyncio.to_thread(service.generation)
    return Health(status="ok", generation=number, version=__version__)


@router.get("/api/info")
async def info(request: Request) -> Info:
    """What is served: how many photos, by what they are searched, their labels, and the limits of this server."""
    service: Service = request.app.state.service
    overview = await service.library.overview()
    number, kind, recall = await asyncio.to_thread(service.generation)
    spec = service.spec
    return Info(
        name=service.path.resolve().name.removesuffix(".store"),
        images=overview.images,
        dimension=service.library.store.feature_length(spec.indexed),
        network=spec.backbone,
        output=spec.indexed,
        index=kind,
        recall=recall,
        generation=number,
        labels=[LabelCount(label=label, images=count) for label, count in overview.labels],
        max_upload_bytes=service.settings.max_upload_bytes,
        max_k=MOST_K,
    )


@router.get("/api/duplicates", response_model=Duplicates, responses={202: {"model": Working}})
async def duplicates(
    request: Request,
    threshold: Annotated[float, Query(gt=0, le=1)] = 0.97,
    limit: Annotated[int, Query(ge=1, le=MOST_GROUPS)] = 100,
) -> Any:
    """Groups of photos that are nearly the same, the largest first. 202 while they are worked out: ask again."""
    service: Service = request.app.state.service
    threshold = round(threshold, 4) or 1e-4
    number, _, _ = await asyncio.to_thread(service.generation)
    overview = await service.library.overview()
    job = service.groupings.result(
        (number, overview.changes, threshold), lambda should_stop: service.grouped(threshold, should_stop)
    )
    found = await _patiently(job, _PATIENCE_SECONDS) if job is not None else None
    if not isinstance(found, Groups):
        return JSONResponse({"status": "working"}, 202, {"retry-after": str(_AGAIN_SECONDS)})
    groups = [DuplicateGroup(images=[Hit.of_neighbour(near) for near in images]) for images in found.groups[:limit]]
    return Duplicates(groups=groups, complete=found.found <= len(groups))


@router.get("/api/map", response_class=Response, responses={200: _MAP, 304: {"description": "It is unchanged."}})
async def library_map(request: Request) -> Response:
    """Where the photos lie on the plane along which they differ most; `X-Ids-From` is to be added to the ids."""
    service: Service = request.app.state.service
    number, _, _ = await asyncio.to_thread(service.generation)
    overview = await service.library.overview()
    etag = f'"{number}-{overview.changes}"'
    headers = {"etag": etag, "cache-control": "private, no-cache"}
    if request.headers.get("if-none-match", "").removeprefix("W/") == etag:
        return Response(status_code=304, headers=headers)
    labels = tuple(label for label, _ in overview.labels)
    job = service.maps.result((number, overview.changes), lambda _: service.drawn_map(labels))
    drawn = await _patiently(job, _MAP_PATIENCE_SECONDS) if job is not None else None
    if drawn is None:
        raise Refusal(503, "the map is being drawn; ask again", retry_seconds=_AGAIN_SECONDS)
    headers |= {"x-images-total": str(drawn.images), "x-ids-from": str(drawn.ids_from)}
    return Response(drawn.data, media_type="application/octet-stream", headers=headers)


async def _patiently(job: Any, seconds: float) -> Any:
    """The result of a job, or None where it takes longer; the job goes on."""
    waiting = asyncio.wrap_future(job)
    try:
        return await asyncio.wait_for(asyncio.shield(waiting), seconds)
    except asyncio.TimeoutError:
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # it is told to who asks next
        return None
    except StreamerError as error:
        raise Refusal(503, "this cannot be worked out now; the server's log says why", retry_seconds=5) from error
