"""The JSON of answers and questions, as the OpenAPI description shows it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from streamer.retrieval import Neighbour
from streamer.store import Photo

__all__ = [
    "MOST_K",
    "DuplicateGroup",
    "Duplicates",
    "Health",
    "Hit",
    "Info",
    "LabelCount",
    "PhotoInfo",
    "PhotoName",
    "Photos",
    "SearchAnswer",
    "SearchQuestion",
    "TimingMilliseconds",
    "Working",
]

MOST_K = 100
"""The most hits of one search."""

_MOST_ID = 2**63 - 1


class PhotoName(BaseModel):
    """A photo of the library."""

    id: int
    key: str
    label: str | None

    @classmethod
    def of(cls, photo: Photo) -> PhotoName:
        """From the catalog's record."""
        return cls(id=photo.id, key=photo.key, label=photo.label or None)


class Hit(PhotoName):
    """A photo and how much it looks like another; `score` is a cosine, 1 for the same picture."""

    score: float

    @classmethod
    def of_neighbour(cls, near: Neighbour) -> Hit:
        """From the answer of a search."""
        return cls(id=near.entry.id, key=near.entry.key, label=near.entry.label or None, score=near.score)


class PhotoInfo(PhotoName):
    """A photo and its file, as far as that can be read; width and height are those of the upright picture."""

    width: int | None = None
    height: int | None = None
    bytes: int | None = None


class Photos(BaseModel):
    """Some photos."""

    images: list[PhotoName]


class LabelCount(BaseModel):
    """A label and how many photos have it."""

    label: str
    images: int


class Info(BaseModel):
    """What is served."""

    name: str
    images: int
    dimension: int
    network: str
    output: str
    index: str
    recall: float | None
    generation: int
    labels: list[LabelCount]
    max_upload_bytes: int
    max_k: int


class Health(BaseModel):
    """Whether questions are answered."""

    status: str
    generation: int
    version: str


class TimingMilliseconds(BaseModel):
    """Where the time of a search went; what is shared with other searches counts for each. The rest it waited."""

    decode: float
    network: float
    search: float
    total: float
    waited: float


class SearchQuestion(BaseModel):
    """A search from a photo of the library, by its id or its key."""

    model_config = ConfigDict(extra="forbid")

    id: int | None = Field(None, ge=1, le=_MOST_ID)
    key: str | None = Field(None, min_length=1, max_length=4096)
    k: int | None = Field(None, ge=1, le=MOST_K)
    exact: bool | None = None
    label: str | None = Field(None, max_length=1024)

    @model_validator(mode="after")
    def _one_photo(self) -> SearchQuestion:
        if (self.id is None) == (self.key is None):
            raise ValueError("give an id or a key, one of them")
        return self


class SearchAnswer(BaseModel):
    """Hits, best first, and what found them."""

    hits: list[Hit]
    exact: bool
    generation: int
    index: str
    images: int
    timing_ms: TimingMilliseconds


class DuplicateGroup(BaseModel):
    """Photos that are nearly the same; scores are about the first."""

    images: list[Hit]


class Duplicates(BaseModel):
    """Groups of near-duplicates, the largest first; `complete` where there are no others."""

    groups: list[DuplicateGroup]
    complete: bool


class Working(BaseModel):
    """The answer is being worked out: ask again."""

    status: str
