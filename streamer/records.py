"""The records that cross the boundaries between rooms.

Each stage of the route turns an iterator of one of these into an iterator of the next:
``ImageRef -> Decoded -> Batch -> FeatureBatch``; a query ends in ``Hit``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batch", "Decoded", "ExportBlock", "FeatureBatch", "Hit", "ImageRef", "Progress", "Rejected"]

Progress = Callable[[str, int, int], None]
"""Called with the stage, the images done, and the images to do."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image of the source, as it was listed.

    Attributes
    ----------
    key : str
        POSIX path relative to the source, Unicode NFC. Unique within a source.
    path : str
        Where the bytes are: a path that ``open`` takes.
    size : int
        Size of the file in bytes.
    mtime_ns : int
        Time of the last modification, nanoseconds since the epoch.
    label : str
        Class of the image; the name of its folder, or ``""`` at the top of the source.
    """

    key: str
    path: str
    size: int
    mtime_ns: int
    label: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """An image that could not be read, and why.

    Attributes
    ----------
    ref : ImageRef
    reason : str
    lasting : bool
        Whether the content is at fault, so that trying again is in vain until it changes. False where the way to it
        failed: a disk that went away, a permission, memory that ran out.
    """

    ref: ImageRef
    reason: str
    lasting: bool = True


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image turned into pixels of the network's input size.

    Attributes
    ----------
    ref : ImageRef
    pixels : ndarray of shape (height, width, 3), uint8
        RGB, 0-255.
    content : bytes
        BLAKE2b-128 digest of the file's bytes: the same bytes, the same digest.
    """

    ref: ImageRef
    pixels: NDArray[np.uint8]
    content: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """An image whose bytes the store has features of, under whatever key: it is not extracted again.

    Attributes
    ----------
    ref : ImageRef
    content : bytes
        BLAKE2b-128 digest of the file's bytes.
    """

    ref: ImageRef
    content: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """Images stacked for one forward pass, in the order of the listing.

    Attributes
    ----------
    refs : tuple of ImageRef, length n
    contents : tuple of bytes, length n
    pixels : ndarray of shape (n, height, width, 3), uint8
        RGB, 0-255. The last batch of a stream may have fewer images than the batch size, or none; so may one that
        many known or rejected images came with.
    rejected : tuple of Rejected
        Images that could not be read, met while this batch was filled.
    known : tuple of Known
        Images that need no features, met while this batch was filled.
    """

    refs: tuple[ImageRef, ...]
    contents: tuple[bytes, ...]
    pixels: NDArray[np.uint8]
    rejected: tuple[Rejected, ...] = ()
    known: tuple[Known, ...] = ()


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """Features of one batch.

    Attributes
    ----------
    refs : tuple of ImageRef, length n
    contents : tuple of bytes, length n
    features : mapping of str to ndarray of shape (n, ...), float32
        One entry for each output of the backbone, by the output's name, such as ``"block5_pool:gem"``.
    rejected : tuple of Rejected
    known : tuple of Known
    """

    refs: tuple[ImageRef, ...]
    contents: tuple[bytes, ...]
    features: Mapping[str, NDArray[np.float32]]
    rejected: tuple[Rejected, ...] = field(default=())
    known: tuple[Known, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class ExportBlock:
    """Images of a store with all that is known of them, on their way out.

    Attributes
    ----------
    ids : ndarray of shape (n,), int64
    keys, labels, paths : list of str, length n
    features : mapping of str to ndarray of shape (n, ...), float32
        By the output's name.
    """

    ids: NDArray[np.int64]
    keys: list[str]
    labels: list[str]
    paths: list[str]
    features: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer to a query.

    Attributes
    ----------
    rank : int
        1 is the best.
    key, path, label : str
    score : float
        Cosine between the full-precision features of the query and of this image, in [-1, 1].
    distance : float or None
        Euclidean distance between them, where hits are ranked by it.
    """

    rank: int
    key: str
    path: str
    label: str
    score: float
    distance: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The form that ``--json`` prints: `distance` only where there is one."""
        data = asdict(self)
        if self.distance is None:
            del data["distance"]
        return data
