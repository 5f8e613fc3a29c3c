"""The records that cross the boundaries between rooms.

Each stage of the route turns an iterator of one of these into an iterator of the next:
``ImageRef -> Decoded -> Batch -> FeatureBatch``; a query ends in ``Hit``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Augmentation",
    "Batch",
    "Decoded",
    "ExportBlock",
    "FeatureBatch",
    "Hit",
    "ImageRef",
    "Progress",
    "Rejected",
    "key_hash",
]

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


@dataclass(frozen=True)
class Fetched(ImageRef):
    """An image that is not on this machine, with the bytes that were fetched of it."""

    data: bytes


def bare(ref: ImageRef) -> ImageRef:
    """The reference to an image without its bytes, where it has some: for what outlives them."""
    if isinstance(ref, Fetched):
        return ImageRef(ref.key, ref.path, ref.size, ref.mtime_ns, ref.label)
    return ref


def key_hash(key: str) -> int:
    """A number of 64 bits for a key, by which many are looked up in little memory: alike on every machine."""
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


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
class Augmentation:
    """What is drawn at random for each augmented copy of an image.

    Attributes
    ----------
    copies : int
        Of each image, at least 1.
    flip : bool
        Whether half of the copies are mirrored, left to right.
    crop : float
        At most this share of each side is cut off, in [0, 1).
    brightness : float
        Pixels are multiplied by a factor in [1 - brightness, 1 + brightness].
    seed : int
    recipe : str
        Name of the way copies are made: another one gives other pixels for the same draw.
    """

    copies: int
    flip: bool
    crop: float
    brightness: float
    seed: int
    recipe: str


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
    copy : int
        Which augmented copy of the image these pixels are, from 1 on; 0 is the image itself.
    """

    ref: ImageRef
    pixels: NDArray[np.uint8]
    content: bytes
    copy: int = 0


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
    copies : tuple of int, length n
        Which augmented copy of its image each is; 0 is the image itself. Empty: all are.
    """

    refs: tuple[ImageRef, ...]
    contents: tuple[bytes, ...]
    pixels: NDArray[np.uint8]
    rejected: tuple[Rejected, ...] = ()
    known: tuple[Known, ...] = ()
    copies: tuple[int, ...] = ()


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
    copies : tuple of int, length n
        Which augmented copy of its image each row is of; 0 is the image itself. Empty: all are.
    """

    refs: tuple[ImageRef, ...]
    contents: tuple[bytes, ...]
    features: Mapping[str, NDArray[np.float32]]
    rejected: tuple[Rejected, ...] = field(default=())
    known: tuple[Known, ...] = field(default=())
    copies: tuple[int, ...] = field(default=())

    @property
    def originals(self) -> tuple[tuple[ImageRef, bytes], ...]:
        """Image and content of each row that is no augmented copy."""
        placed = zip(self.refs, self.contents, strict=True)
        return tuple(pair for pair, copy in zip(placed, self.copy_numbers, strict=True) if copy == 0)

    @property
    def copy_numbers(self) -> tuple[int, ...]:
        """`copies`, spelled out."""
        return self.copies or (0,) * len(self.refs)

    def without(self, bad: Mapping[int, str], spoilt: dict[bytes, str]) -> FeatureBatch:
        """Leave images out of which a row is bad: they are refused, whichever batch their other rows are in.

        Parameters
        ----------
        bad : mapping of int to str
            Rows that are bad, and why.
        spoilt : dict of bytes to str
            The caller keeps it from batch to batch: contents of which a copy was bad, until the image itself comes.

        Returns
        -------
        FeatureBatch
            Itself, if there is nothing to leave out.
        """
        spoilt.update((self.contents[row], reason) for row, reason in bad.items())
        left_out = [row for row, content in enumerate(self.contents) if content in spoilt]
        if not left_out:
            return self
        numbers = self.copy_numbers
        images = [row for row in left_out if numbers[row] == 0]
        refused = tuple(Rejected(self.refs[row], spoilt[self.contents[row]]) for row in images)
        for row in images:
            spoilt.pop(self.contents[row], None)
        kept = np.delete(np.arange(len(self.refs)), left_out)
        return replace(
            self,
            refs=tuple(self.refs[row] for row in kept),
            contents=tuple(self.contents[row] for row in kept),
            features={name: values[kept] for name, values in self.features.items()},
            rejected=self.rejected + refused,
            copies=tuple(numbers[row] for row in kept),
        )


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
