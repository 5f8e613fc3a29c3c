"""What is tormented: small but whole writing operations on a store, and what must hold after each."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from streamer.errors import StoreMissingError
from streamer.index import current_generation
from streamer.indexing import IndexBuilder, IndexSettings
from streamer.records import Augmentation, FeatureBatch, ImageRef, Known, Rejected
from streamer.retrieval import nearest_exact
from streamer.searcher import Searcher
from streamer.store import FeatureSpec, Store, StoreLock, StoreWriter, find_changes
from streamer.upkeep import check, compact
from tests.conftest import content, feature_batch, ref, spec

LENGTH = 8


@dataclass(frozen=True)
class Contents:
    """All that a store says: features by key, failures, hits of a few queries, and copies by content."""

    rows: dict[str, bytes]
    failures: list[str]
    hits: list[list[tuple[str, float]]]
    copies: dict[tuple[bytes, int], bytes]


def features(key: str, version: int = 1, copy: int = 0) -> np.ndarray:
    return np.random.default_rng([*key.encode(), version, copy]).normal(size=(1, LENGTH)).astype(np.float32)


def contents(path: Path) -> Contents:
    queries = np.random.default_rng(0).normal(size=(3, LENGTH)).astype(np.float32)
    with Store(path) as store:
        rows: dict[str, bytes] = {}
        for ids, block in store.blocks("fc2", 3):
            entries = store.entries(ids.tolist())
            rows |= {entries[number].key: row.tobytes() for number, row in zip(ids.tolist(), block, strict=True)}
        places = list(store.augmented_places())
        copies = {
            (content, copy): store.rows("fc2", np.array([shard]), np.array([row])).tobytes()
            for content, copy, shard, row in places
        }
        failures = [each.key for each in store.failures()]
        exact = [[(each.entry.key, each.score) for each in found] for found in nearest_exact(store, queries, 5)]
    with Searcher(path) as searcher:
        hits = [[(hit.key, hit.score) for hit in hits] for hits in searcher.nearest(list(queries), 5)]
    assert hits == exact  # small enough for the index to find them all
    return Contents(rows, failures, hits, copies)


# -- a night --------------------------------------------------------------------------------------------------------


PLAIN = spec(LENGTH)
AUGMENTED = replace(PLAIN, augmentation=Augmentation(2, True, 0.1, 0.2, 0, "test-1"))


def night(path: Path, listing: dict[str, int], made: FeatureSpec = PLAIN) -> None:
    """Bring a store up to date with ``{key: version}``; a new version 0 cannot be read. Commits after every second.

    A store that is there stays one of its kind. Augmented ones are compressed, and copies are committed before their
    image.
    """
    images = [ref(key, mtime_ns=1 + version) for key, version in sorted(listing.items())]
    with contextlib.suppress(StoreMissingError), Store(path) as store:
        made = store.spec
    compression = "gzip" if made.copies else "none"
    with StoreLock(path), StoreWriter(path, made, engine="t", limits="l", compression=compression) as writer:
        number = writer.catalog.begin_run("run", os.getpid())
        changes = find_changes(images, writer.catalog, "l")
        writer.apply(changes)
        for count, image in enumerate(changes.pending()):
            extracted = _extracted(writer, image, listing[image.key])
            if made.copies and extracted.refs:
                writer.append(_copies(extracted, listing[image.key], made.copies))
                writer.commit()
            writer.append(extracted)
            if count % 2:
                writer.commit()
        writer.finish()
        changes.close()
        writer.publish_view()
        index(path, "exact")
        writer.catalog.end_run(number, 0, "")


def _extracted(writer: StoreWriter, image: ImageRef, version: int):  # type: ignore[no-untyped-def]
    # Copies are told by what follows "=": the same bytes under another key.
    row = features(image.key.partition("=")[2] or image.key, version)
    nothing = type(feature_batch([], np.empty((0, LENGTH))))((), (), {"fc2": np.empty((0, LENGTH), np.float32)})
    if version == 0:
        return type(nothing)((), (), nothing.features, (Rejected(image, "broken"),))
    digest = content("", row)
    if writer.knows(digest):
        return type(nothing)((), (), nothing.features, (), (Known(image, digest),))
    return type(nothing)((image,), (digest,), {"fc2": row})


def _copies(extracted: FeatureBatch, version: int, count: int) -> FeatureBatch:
    numbers = tuple(range(1, count + 1))
    key = extracted.refs[0].key
    rows = np.concatenate([features(key.partition("=")[2] or key, version, copy) for copy in numbers])
    return FeatureBatch(extracted.refs * count, extracted.contents * count, {"fc2": rows}, copies=numbers)


def index(path: Path, kind: str) -> None:
    settings = IndexSettings(kind, components=4, whiten=False, parts=4, effort=None, seed=0, candidates=20, recall=0.5)
    with Store(path) as store:
        builder = IndexBuilder(store, settings, 2**30, lambda *_: None, lambda: False)
        if kind != "exact":
            builder.reduce()
        builder.build()


FIRST = {f"{number}.jpg": 1 for number in range(6)}
SECOND = {**FIRST, "1.jpg": 2, "7=0.jpg": 1, "8.jpg": 0, "9.jpg": 1}
for _moved, _to in (("3.jpg", "a/x=3.jpg"), ("4.jpg", "")):
    SECOND.pop(_moved)
    if _to:
        SECOND[_to] = 1


# -- operations -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """Something that writes.

    Attributes
    ----------
    prepare : callable
        Makes the store as it is before.
    run : callable
        The work. Done again after a fault, it must end as if there had been none.
    sound_between : bool
        Whether a check is clean after a fault. Not where the work is to mend what is damaged.
    """

    prepare: Callable[[Path], None]
    run: Callable[[Path], None]
    sound_between: bool = True


def _nothing(path: Path) -> None:
    """No store at all."""


def _fragmented(path: Path) -> None:
    night(path, FIRST)
    night(path, SECOND)


def _damaged_shard(path: Path) -> None:
    _fragmented(path)
    index(path, "annoy")
    shard = sorted((path / "features").glob("*.h5"))[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)


def _damaged_catalog(path: Path) -> None:
    _fragmented(path)
    catalog = path / "catalog.sqlite"
    catalog.write_bytes(catalog.read_bytes()[: catalog.stat().st_size // 2])


def _augmented(path: Path) -> None:
    night(path, FIRST, AUGMENTED)


def _night_and_compact(path: Path) -> None:
    night(path, {**FIRST, "5.jpg": 2})  # one night with little to do: each change to the disk is tried
    compact(path)


def _repair(path: Path) -> None:
    check(path, repair=True)


OPERATIONS = {
    "first night": Operation(_nothing, lambda path: night(path, FIRST)),
    "second night": Operation(lambda path: night(path, FIRST), lambda path: night(path, SECOND)),
    "compact": Operation(_fragmented, lambda path: compact(path) and None),
    "augment, and compact": Operation(_augmented, _night_and_compact),
    "rebuild": Operation(_fragmented, lambda path: index(path, "annoy")),
    "rebuild an inverted file": Operation(_fragmented, lambda path: index(path, "ivf")),
    "repair a shard": Operation(_damaged_shard, _repair, sound_between=False),
    "repair the catalog": Operation(_damaged_catalog, _repair, sound_between=False),
}


def verify_between(path: Path, operation: Operation, right: dict[str, set[bytes]]) -> None:
    """After a fault: the store opens, nothing in it is wrong, and a check finds nothing but what was there before."""
    try:
        if operation.sound_between:
            report = check(path)
            assert not report.faults, report.faults
            found = contents(path)
            assert all(row in right[key] for key, row in found.rows.items())
            with Store(path) as store:  # an image that is there has all its copies
                assert len(found.copies) == store.spec.copies * len(set(found.rows.values()))
    except StoreMissingError:
        assert operation.prepare is _nothing, "the store is gone"


def verify_after(path: Path, expected: Contents) -> None:
    """After the operation was done again, and another night: all is as it would have been."""
    report = check(path)
    assert not report.faults, report.faults
    found = contents(path)
    assert found == expected, (found, expected)
    leftovers = [each.name for each in path.rglob("*.partial*")]
    assert not leftovers, leftovers
    with Store(path) as store:
        names = {f"{number:06d}.h5" for number, _, _ in store.catalog.shards()}
    assert {each.name for each in (path / "features").iterdir() if not each.name.endswith(".damaged")} == names
    generation = current_generation(path / "index")
    assert generation is not None and not generation.faults()


def copy(source: Path, target: Path) -> Path:
    if source.exists():
        shutil.copytree(source, target)
    return target
