"""POST /api/search: a picture, or a photo of the library, in; hits out."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import ValidationError

from streamer.images.previews import is_picture
from streamer.serving.answers import MOST_K, Hit, SearchAnswer, SearchQuestion, TimingMilliseconds
from streamer.serving.queries import Timing
from streamer.serving.refusal import Refusal
from streamer.serving.searching import Asked
from streamer.serving.service import Service

__all__ = ["router"]

router = APIRouter()

_IMAGES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/avif", "image/bmp", "image/tiff")
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A picture, or the id or key of a photo of the library.",
        "content": {
            "application/json": {"schema": SearchQuestion.model_json_schema()},
            "application/octet-stream": _BINARY,
            **dict.fromkeys(_IMAGES, _BINARY),
        },
    }
}


@router.post("/api/search", openapi_extra=_BODY)
async def search(
    request: Request,
    k: Annotated[int, Query(ge=1, le=MOST_K)] = 20,
    exact: bool = False,
    label: Annotated[str | None, Query(max_length=1024)] = None,
) -> SearchAnswer:
    """Find the photos that look most like a picture, or like a photo of the library, which is then left out.

    What the JSON of a question says of `k`, `exact` and `label` counts before the query's.
    """
    service: Service = request.app.state.service
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "a body that is compressed is not read; send it as it is", close=True)
    timing = Timing()
    with request.app.state.searches.one():
        if media_type == "application/json":
            began, asked = await _asked_by_json(request, service, k, exact, label)
        elif media_type.startswith("image/") or media_type == "application/octet-stream":
            began, asked = await _asked_by_picture(request, service, Asked(0, k, label or None, exact), timing)
        else:
            raise Refusal(
                415,
                f"a body of type {ascii(media_type)[:80]} is not read; send a picture or application/json",
                close=True,
            )
        answered = await service.queries.search(asked, timing)
    total = time.perf_counter() - began
    spent = {"decode": timing.decode, "network": timing.network, "search": timing.search, "total": total}
    waited = max(0.0, total - timing.decode - timing.network - timing.search)
    rounded = {name: round(1e3 * seconds, 2) for name, seconds in {**spent, "waited": waited}.items()}
    return SearchAnswer(
        hits=[Hit.of_neighbour(near) for near in answered.hits],
        exact=answered.exact,
        generation=answered.generation,
        index=answered.index,
        images=answered.images,
        timing_ms=TimingMilliseconds(**rounded),
    )


async def _asked_by_json(
    request: Request, service: Service, k: int, exact: bool, label: str | None
) -> tuple[float, Asked]:
    body = await service.uploads.read(request, service.settings.max_json_bytes)
    began = time.perf_counter()
    try:
        question = SearchQuestion.model_validate_json(body)
    except ValidationError as error:
        raise Refusal(422, _told(error)) from None
    number = question.id
    if number is None:
        assert question.key is not None
        photo = await service.library.photo_of_key(question.key)
        if photo is None:
            raise Refusal(404, "there is no photo with that key in the library")
        number = photo.id
    return began, Asked(
        number,
        question.k if question.k is not None else k,
        (question.label if question.label is not None else label) or None,
        question.exact if question.exact is not None else exact,
    )


async def _asked_by_picture(request: Request, service: Service, asked: Asked, timing: Timing) -> tuple[float, Asked]:
    async with service.uploads.received(request, service.settings.max_upload_bytes) as (path, head):
        began = time.perf_counter()
        if not head:
            raise Refusal(400, "the body is empty; send a picture")
        if not is_picture(head):
            raise Refusal(415, "that is no picture in a format that is read here")
        features = await service.queries.features(path, timing)
    return began, Asked(features, asked.k, asked.label, asked.exact)


def _told(error: ValidationError) -> str:
    """The first faults, in words that quote nothing of the body."""
    faults = [f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg']}" for each in error.errors()[:3]]
    return "; ".join(faults)[:500]
