"""Which images train, validate and test: told by their content, so that it holds when a library grows."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

__all__ = ["SIDES", "Split"]

SIDES = ("train", "validation", "test")
"""Names of the sides, by their numbers."""

_TRAIN, _VALIDATION, _TEST = range(3)


@dataclass(frozen=True)
class Split:
    """A seeded split into train, validation and test.

    Each content, that is each digest of a file's bytes, is hashed together with the seed to a number u in [0, 1): test
    is u < `test`, validation the next `validation`, train the rest. So an image that is added, renamed or removed moves
    no other, and the same bytes are on one side wherever they lie. Of a class of n contents, n * test go to the test
    give or take sqrt(n * test * (1 - test)), the standard deviation of a binomial distribution: of 100 with
    ``test=0.2`` 20 +- 4.

    A class whose contents all fell on the wrong side is mended: with two contents or more it has at least one in train,
    the one with the highest u, and (unless `test` is 0) at least one in test, the one with the lowest u. Such a class,
    and no other, may change again when it grows. A class with one content is in train. What bears labels of two classes
    is never moved.

    Parameters
    ----------
    seed : int
        Another seed, another split. From 0 to 2**64 - 1.
    test, validation : float
        Shares, in [0, 1), together less than 1.

    Raises
    ------
    ValueError
        If a share or the seed is out of range.
    """

    seed: int = 0
    test: float = 0.2
    validation: float = 0.1

    def __post_init__(self) -> None:
        if not (self.test >= 0 and self.validation >= 0 and self.test + self.validation < 1):
            raise ValueError(
                f"test={self.test} and validation={self.validation}: shares are from 0 to 1, together less than 1, so "
                "that something is left to train on"
            )
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed={self.seed}: a seed is a whole number from 0 to 2**64 - 1")

    def hash(self, content: bytes) -> int:
        """Where a content falls: a whole number, u * 2**64. The same content, the same number, on every machine."""
        digest = blake2b(content, digest_size=8, key=self.seed.to_bytes(8, "little")).digest()
        return int.from_bytes(digest, "little")

    def sides(self, hashes: NDArray[np.uint64], classes: NDArray[np.int64]) -> NDArray[np.int8]:
        """Assign n images.

        Parameters
        ----------
        hashes : ndarray of shape (n,), uint64
            `hash` of each image's content.
        classes : ndarray of shape (n,), int64
            Its class, from 0.

        Returns
        -------
        ndarray of shape (n,), int8
            Places in `SIDES`: 0 is train, 1 validation, 2 test.
        """
        contents, content_of = np.unique(hashes, return_inverse=True)
        u = contents / 2.0**64
        sides = np.full(len(contents), _TRAIN, dtype=np.int8)
        sides[u < self.test + self.validation] = _VALIDATION
        sides[u < self.test] = _TEST
        # Each content of each class once, by class and then by u, as contents are sorted.
        owners, members_of = np.divmod(np.unique(classes * len(contents) + content_of), max(1, len(contents)))
        shared = np.bincount(members_of, minlength=len(contents)) > 1
        for members in np.split(members_of, np.flatnonzero(np.diff(owners)) + 1):
            if len(members) == 1 and not shared[members[0]]:
                sides[members] = _TRAIN
            elif len(members) > 1:
                _fill(sides, members[~shared[members]][::-1], members, wanted=_TRAIN, other=_TEST)
                if self.test:
                    _fill(sides, members[~shared[members]], members, wanted=_TEST, other=_TRAIN)
        return sides[content_of]


def _fill(
    sides: NDArray[np.int8], candidates: NDArray[np.int64], members: NDArray[np.int64], *, wanted: int, other: int
) -> None:
    """Move the first candidate to the side that is wanted, if that has no member, and the other is left with one."""
    if (sides[members] == wanted).any():
        return
    for content in candidates:
        if sides[content] != other or (sides[members] == other).sum() > 1:
            sides[content] = wanted
            return
