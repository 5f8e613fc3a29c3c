"""The listing against the catalog."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from streamer.errors import StreamerError
from streamer.records import FeatureBatch, ImageRef, Rejected
from streamer.store import StoreWriter, find_changes
from tests.conftest import feature_batch, ref

Open = Callable[..., StoreWriter]


@pytest.fixture
def writer(open_writer: Open) -> Iterator[StoreWriter]:
    """A store with b, d and e/f, and a failure x."""
    with open_writer() as writer:
        writer.append(feature_batch(["b.jpg", "d.jpg", "e/f.jpg"], np.ones((3, 8))))
        none = {"fc2": np.empty((0, 8), np.float32)}
        writer.append(FeatureBatch((), (), none, (Rejected(ref("x.jpg"), "broken"),)))
        writer.commit()
        yield writer


def summary(writer: StoreWriter, listing: list[ImageRef | Rejected], limits: str = "none") -> dict[str, object]:
    changes = find_changes(listing, writer.catalog, limits)
    found = {
        "pending": [each.key for each in changes.pending()],
        "unchanged": changes.unchanged,
        "removed": list(changes.missing()),
        "known_bad": changes.known_bad,
        "fixed": list(changes.fixed()),
        "relocated": list(changes.relocated()),
        "relabelled": list(changes.relabelled()),
    }
    assert changes.seen == len(listing) or any(isinstance(each, Rejected) for each in listing)
    assert changes.pending_count == len(found["pending"])
    changes.close()
    return {name: value for name, value in found.items() if value}


def test_nothing_has_changed(writer: StoreWriter) -> None:
    listing = [ref("b.jpg"), ref("d.jpg"), ref("e/f.jpg"), ref("x.jpg")]
    assert summary(writer, listing) == {"unchanged": 3, "known_bad": 1}


def test_new_changed_and_gone(writer: StoreWriter) -> None:
    listing = [ref("a.jpg"), ref("b.jpg"), ref("c.jpg"), ref("d.jpg", mtime_ns=2), ref("z.jpg")]
    assert summary(writer, listing) == {
        "pending": ["a.jpg", "c.jpg", "d.jpg", "z.jpg"],
        "unchanged": 1,
        "removed": [3],
        "fixed": ["/photos/x.jpg"],
    }


def test_a_failure_is_tried_again_when_the_file_or_the_limits_change(writer: StoreWriter) -> None:
    base = [ref("b.jpg"), ref("d.jpg"), ref("e/f.jpg")]
    assert summary(writer, [*base, ref("x.jpg", size=101)]) == {"pending": ["x.jpg"], "unchanged": 3}
    assert summary(writer, [*base, ref("x.jpg")], limits="wider") == {"pending": ["x.jpg"], "unchanged": 3}


def test_an_empty_listing_removes_all(writer: StoreWriter) -> None:
    assert summary(writer, []) == {"removed": [1, 2, 3], "fixed": ["/photos/x.jpg"]}


def test_a_folder_that_cannot_be_listed_keeps_what_was_in_it(writer: StoreWriter) -> None:
    """A permission taken away for a night must not drop a year of photos from the index."""
    listing = [ref("b.jpg"), ref("d.jpg"), Rejected(ref("e/"), "permission denied"), ref("x.jpg")]
    assert summary(writer, listing) == {"unchanged": 3, "known_bad": 1}


def test_an_image_that_the_listing_refuses_is_removed(writer: StoreWriter) -> None:
    listing = [ref("b.jpg"), Rejected(ref("d.jpg"), "broken link"), ref("e/f.jpg"), ref("x.jpg")]
    assert summary(writer, listing) == {"unchanged": 2, "removed": [2], "known_bad": 1}


def test_a_second_file_of_the_same_key_does_not_disturb_the_first(writer: StoreWriter) -> None:
    twin = Rejected(ImageRef("b.jpg", "/photos/B.jpg", 1, 1, ""), "same name")
    assert summary(writer, [ref("b.jpg"), twin, ref("d.jpg"), ref("e/f.jpg"), ref("x.jpg")]) == {
        "unchanged": 3,
        "known_bad": 1,
    }


def test_a_library_that_moved_as_a_whole_is_found_at_its_new_place(writer: StoreWriter) -> None:
    listing = [ImageRef(key, f"/new/{key}", 100, 1, "") for key in ("b.jpg", "d.jpg", "e/f.jpg")]
    assert summary(writer, listing)["relocated"] == [
        ("/new/b.jpg", "b.jpg"),
        ("/new/d.jpg", "d.jpg"),
        ("/new/e/f.jpg", "e/f.jpg"),
    ]


def test_a_new_label_is_noted_and_the_image_is_not_read_again(writer: StoreWriter) -> None:
    listing = [ImageRef(key, f"/photos/{key}", 100, 1, label) for key, label in (("b.jpg", "cat"), ("d.jpg", ""))]
    listing.append(ref("e/f.jpg"))
    assert summary(writer, [*listing, ref("x.jpg")]) == {
        "unchanged": 3,
        "known_bad": 1,
        "relabelled": [("cat", "b.jpg")],
    }
    changes = find_changes(listing, writer.catalog, "none")
    writer.apply(changes)
    writer.finish()
    changes.close()
    assert dict(writer.catalog.execute("SELECT key, label FROM images")) == {
        "b.jpg": "cat",
        "d.jpg": "",
        "e/f.jpg": "e",
    }


def test_an_unsorted_listing_is_refused(writer: StoreWriter) -> None:
    with pytest.raises(StreamerError, match=r"lists 'a\.jpg' after 'b\.jpg'"):
        find_changes([ref("b.jpg"), ref("a.jpg")], writer.catalog, "none")


@pytest.mark.parametrize("seed", range(20))
def test_any_listing_against_sets(open_writer: Open, seed: int) -> None:
    """The merge equals plain set arithmetic."""
    random_ = random.Random(seed)
    names = [f"{a}{b}.jpg" for a in "ab-é/" for b in "xyz~"]
    before = {name: random_.randrange(3) for name in names if random_.random() < 0.6}
    after = {name: random_.randrange(3) for name in names if random_.random() < 0.6}
    with open_writer() as writer:
        for name, state in before.items():
            writer.append(feature_batch([name], np.ones((1, 8)), mtime_ns=state))
        writer.commit()
        ids = dict(writer.catalog.execute("SELECT key, id FROM images"))
        listing = [ref(name, mtime_ns=state) for name, state in sorted(after.items())]
        changes = find_changes(listing, writer.catalog, "none")
        assert [each.key for each in changes.pending()] == sorted(
            name for name in after if before.get(name) != after[name]
        )
        assert set(changes.missing()) == {ids[name] for name in before if name not in after}
        assert changes.unchanged == sum(before.get(name) == state for name, state in after.items())
        changes.close()
