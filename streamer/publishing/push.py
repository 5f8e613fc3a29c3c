"""A store to an address: what is new, and at last what points at it."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from streamer.errors import StoreCorruptError
from streamer.index import current_generation
from streamer.objects import Bucket, RemoteLimits
from streamer.publishing.layout import FORMAT, POINTER, Transfer, at, catalog_last, facts_of, open_place, read_pointer
from streamer.records import Progress
from streamer.store import Catalog, catalog_snapshot, shard_path

__all__ = ["push"]

# An object that nothing points at may be part of a push that is under way.
_UNFINISHED_FOR = timedelta(days=1)
_TRIES = 5


def push(
    store: Path,
    url: str,
    *,
    everything: bool = False,
    limits: RemoteLimits | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Transfer:
    """Publish a store under an address; a run may go on beside it.

    Parameters
    ----------
    store : Path
        The store's folder.
    url : str
        ``s3://bucket/prefix``, ``gs://``, ``az://``, or the path of a folder.
    everything : bool
        Send what is there already, too: it has been found damaged.
    limits : RemoteLimits, optional
    progress : callable, optional
        Called with ``("push", files done, files)``.

    Raises
    ------
    StoreMissingError, StoreCorruptError
        If there is no readable store, or a file of it is not what was written.
    ObjectError
        If the way there fails. What was pushed before is what is pulled.
    ConfigError
        If the address is none.
    """
    began = time.monotonic()
    bucket, prefix = open_place(url, limits)
    before = read_pointer(bucket, prefix, url)
    for attempt in range(_TRIES):
        with tempfile.TemporaryDirectory(prefix="streamer-push-") as scratch:
            try:
                files, images, generation = _contents(store, Path(scratch) / "catalog.sqlite")
                there = {} if everything else _objects(bucket, prefix)
                sent, n_bytes = _send(bucket, prefix, store, Path(scratch), files, there, progress)
                break
            except FileNotFoundError:  # compact, or a new generation, has just taken its place
                if attempt == _TRIES - 1:
                    raise
    else:
        raise AssertionError
    pointer = {"format": FORMAT, "push": (before or {}).get("push", 0) + 1, "images": images, "generation": generation}
    bucket.put(at(prefix, POINTER), json.dumps({**pointer, "files": files}, indent=1).encode())
    removed = _prune(bucket, prefix, files, (before or {}).get("files", {}))
    seconds = round(time.monotonic() - began, 3)
    return Transfer(str(store), url, images, generation, sent, n_bytes, len(files) - sent, removed, seconds)


def _contents(store: Path, catalog: Path) -> tuple[dict[str, tuple[int, str]], int, int]:
    """Size and digest of all files of a store as it is at one moment, its number of images, and its generation.

    The index first: one that is older than the catalog is right, one that is newer would name what is not there.
    """
    files: dict[str, tuple[int, str]] = {}
    generation = current_generation(store / "index") if (store / "index").is_dir() else None
    if generation is not None:
        for name, (n_bytes, digest) in generation.manifest.files.items():
            files[f"index/{generation.path.name}/{name}"] = (n_bytes, digest)
        files[f"index/{generation.path.name}/manifest.json"] = facts_of(generation.path / "manifest.json")
    catalog_snapshot(store, catalog)
    with contextlib.closing(Catalog(catalog)) as opened:
        images = opened.count("images")
        for number, shard in opened.sealed().items():
            name = shard_path(store / "features", number).relative_to(store).as_posix()
            files[name] = (shard.n_bytes, shard.digest.hex())
    files["catalog.sqlite"] = facts_of(catalog)
    return files, images, generation.number if generation is not None else 0


def _objects(bucket: Bucket, prefix: str) -> dict[str, int]:
    """Digest and size of what was sent before."""
    return {meta["path"].rpartition("/")[2]: meta["size"] for meta in bucket.listed(at(prefix, "objects"))}


def _send(
    bucket: Bucket,
    prefix: str,
    store: Path,
    scratch: Path,
    files: Mapping[str, tuple[int, str]],
    there: Mapping[str, int],
    progress: Progress,
) -> tuple[int, int]:
    """Upload what is not there yet; how many files and bytes it was."""
    wanted = {name: facts for name, facts in files.items() if there.get(facts[1]) != facts[0]}
    for done, (name, facts) in enumerate(sorted(wanted.items(), key=catalog_last)):
        path = (scratch if name == "catalog.sqlite" else store) / name
        if facts_of(path) != facts:
            raise StoreCorruptError(
                f"{path}: its checksum is not that of what was written, so nothing was published; see 'streamer check "
                f"{store}'"
            )
        bucket.put(at(prefix, f"objects/{facts[1]}"), path)
        progress("push", done + 1, len(wanted))
    return len(wanted), sum(facts[0] for facts in wanted.values())


def _prune(bucket: Bucket, prefix: str, *kept: Mapping[str, Any]) -> int:
    """Take away what neither this push nor the one before points at: who pulls meanwhile still finds the latter."""
    digests = {facts[1] for files in kept for facts in files.values()}
    before = datetime.now(timezone.utc) - _UNFINISHED_FOR
    stale = [
        meta["path"]
        for meta in bucket.listed(at(prefix, "objects"))
        if meta["path"].rpartition("/")[2] not in digests and meta["last_modified"] < before
    ]
    if stale:
        bucket.delete(stale)
    return len(stale)
