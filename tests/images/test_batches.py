"""Stacking pictures: nothing dropped, nothing reordered, nothing shared."""

from __future__ import annotations

import random

import numpy as np
import pytest

from streamer.images.batches import batches
from streamer.records import Decoded, ImageRef, Known, Rejected

SIZE = (2, 3)


def ref(number: int) -> ImageRef:
    return ImageRef(f"{number}.jpg", "", 0, 0, "")


def decoded(number: int) -> Decoded:
    return Decoded(ref(number), np.full((*SIZE, 3), number, np.uint8), bytes([number]))


def rejected(number: int) -> Rejected:
    return Rejected(ref(number), f"reason {number}")


def test_full_batches_and_a_shorter_last_one() -> None:
    got = list(batches([decoded(number) for number in range(7)], 3, SIZE))
    assert [len(batch.refs) for batch in got] == [3, 3, 1]
    assert [batch.pixels.shape for batch in got] == [(3, 2, 3, 3), (3, 2, 3, 3), (1, 2, 3, 3)]
    assert got[1].contents == (b"\3", b"\4", b"\5")
    assert got[1].pixels[:, 0, 0, 0].tolist() == [3, 4, 5]
    assert all(batch.pixels.dtype == np.uint8 for batch in got)


def test_refused_pictures_travel_with_the_batch_being_filled() -> None:
    items = [rejected(0), decoded(1), rejected(2), decoded(3), rejected(4), decoded(5)]
    first, second = batches(items, 2, SIZE)
    assert first.rejected == (rejected(0), rejected(2))
    assert [item.key for item in first.refs] == ["1.jpg", "3.jpg"]
    assert second.rejected == (rejected(4),)
    assert [item.key for item in second.refs] == ["5.jpg"]


def test_a_tail_of_refused_pictures_gives_a_batch_of_none() -> None:
    full, tail = batches([decoded(0), rejected(1), rejected(2)], 1, SIZE)
    assert full.rejected == ()
    assert tail.refs == tail.contents == ()
    assert tail.pixels.shape == (0, 2, 3, 3)
    assert tail.rejected == (rejected(1), rejected(2))


def test_all_refused_is_one_batch_and_nothing_is_none() -> None:
    (only,) = batches([rejected(0), rejected(1)], 4, SIZE)
    assert only.pixels.shape == (0, 2, 3, 3)
    assert len(only.rejected) == 2
    assert list(batches([], 4, SIZE)) == []


def test_a_batch_is_not_overwritten_by_the_next() -> None:
    kept = list(batches([decoded(number) for number in range(6)], 2, SIZE))
    assert [batch.pixels[0, 0, 0, 0] for batch in kept] == [0, 2, 4]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_whatever_comes_goes_out_once_and_in_order(batch_size: int) -> None:
    chance = random.Random(batch_size)
    items = [decoded(number) if chance.random() < 0.6 else rejected(number) for number in range(100)]
    got = list(batches(items, batch_size, SIZE))
    assert [item for batch in got for item in batch.refs] == [i.ref for i in items if isinstance(i, Decoded)]
    assert [item for batch in got for item in batch.rejected] == [i for i in items if isinstance(i, Rejected)]
    assert all(len(batch.refs) == batch_size for batch in got[:-1])
    assert all((batch.pixels[:, 0, 0, 0] == [int(c[0]) for c in batch.contents]).all() for batch in got)


def test_wrong_shapes_and_sizes_are_errors() -> None:
    wrong = Decoded(ref(0), np.zeros((1, 1, 3), np.uint8), b"")  # NumPy would broadcast it
    with pytest.raises(ValueError, match=r"0\.jpg: pixels of shape \(1, 1, 3\)"):
        list(batches([wrong], 2, SIZE))
    with pytest.raises(ValueError, match="at least 1, not 0"):
        list(batches([], 0, SIZE))


def test_many_others_do_not_wait_for_a_full_batch() -> None:
    """A library that was only moved must reach the store all the same, in its order and in parts."""
    items = [decoded(0), *(Known(ref(number), b"x") for number in range(1, 700)), decoded(7)]
    first, second, third = batches(items, 8, SIZE)
    assert [len(each.known) for each in (first, second, third)] == [256, 256, 187]
    assert [len(each.refs) for each in (first, second, third)] == [1, 0, 1]
    assert [each.ref for batch in (first, second, third) for each in batch.known] == [ref(n) for n in range(1, 700)]
