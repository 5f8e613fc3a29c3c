"""A copy of a store brought up to date with what was pushed, while others search in it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from streamer.errors import StoreCorruptError
from streamer.files import published, remove_tree, rename, replace_text
from streamer.objects import Bucket, ObjectMissingError, RemoteLimits
from streamer.publishing.layout import NAME, Transfer, at, catalog_last, facts_of, open_place, read_pointer
from streamer.records import Progress
from streamer.store import Catalog, StoreLock, replace_catalog, shard_path, sweep, writing

__all__ = ["pull"]

_PULLED = "pulled.json"


def pull(
    url: str, store: Path, *, limits: RemoteLimits | None = None, progress: Progress = lambda stage, done, total: None
) -> Transfer:
    """Bring a copy of a store up to date with what was pushed; searches go on beside it.

    Parameters
    ----------
    url : str
        As it was pushed to.
    store : Path
        A folder that was made by a pull from there, or none yet.
    limits : RemoteLimits, optional
    progress : callable, optional
        Called with ``("pull", files done, files)``.

    Raises
    ------
    ObjectError, ObjectMissingError
        If the way there fails, or nothing was pushed there. What was pulled before stays as it is.
    StoreCorruptError
        If what comes is not what was pushed, or the folder holds another store than a copy from there: a pull would
        replace it.
    StoreLockedError
        If another run is writing to it.
    """
    began = time.monotonic()
    bucket, prefix = open_place(url, limits)
    pointer = read_pointer(bucket, prefix, url)
    if pointer is None:
        raise ObjectMissingError(f"{url}: nothing was pushed there yet; see 'streamer push STORE {url}'")
    files: dict[str, tuple[int, str]] = {name: tuple(facts) for name, facts in pointer["files"].items()}
    _require_copy(store, url)
    with StoreLock(store):
        for folder in ("features", "index"):
            (store / folder).mkdir(parents=True, exist_ok=True)
        with writing(store):
            there = _there(store)
            _mark(store, url, there, files)  # whatever happens now: this is a copy, before or after
            wanted = {name: facts for name, facts in files.items() if there.get(name) != facts}
            _refuse_another(store, url, there, wanted)
            for done, (name, facts) in enumerate(sorted(wanted.items(), key=catalog_last)):
                _fetch(bucket, at(prefix, f"objects/{facts[1]}"), facts, store / name, last=name == "catalog.sqlite")
                progress("pull", done + 1, len(wanted))
            if pointer["generation"]:
                replace_text(store / "index" / "CURRENT", f"{pointer['generation']:06d}\n")
            _mark(store, url, files)
            removed = _sweep(store, files, pointer["generation"])
    n_bytes = sum(facts[0] for facts in wanted.values())
    seconds = round(time.monotonic() - began, 3)
    counts = (len(wanted), n_bytes, len(files) - len(wanted), removed)
    return Transfer(str(store), url, pointer["images"], pointer["generation"], *counts, seconds)


def _require_copy(store: Path, url: str) -> None:
    """A pull replaces what is there: it must be a copy from the same address, and nobody's own work."""
    if not (store / _PULLED).is_file():
        strangers = {each.name for each in store.iterdir()} - {"features", "index", "lock"} if store.is_dir() else set()
        if "catalog.sqlite" in strangers:
            raise StoreCorruptError(
                f"{store}: is a store of its own, which a pull would replace; pull into another folder"
            )
        if strangers:
            raise StoreCorruptError(f"{store}: not a store: it holds {min(strangers)!r}; pull into a new folder")
        return
    try:
        marks = json.loads((store / _PULLED).read_text(encoding="utf-8"))
        source, catalogs = marks["url"], marks["catalogs"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreCorruptError(f"{store / _PULLED}: cannot be read ({error}); pull into another folder") from error
    if source != url:
        raise StoreCorruptError(f"{store}: is a copy of {source}, not of {url}; pull into another folder")
    catalog = store / "catalog.sqlite"
    if catalog.is_file() and facts_of(catalog)[1] not in catalogs:
        raise StoreCorruptError(
            f"{store}: has been changed since it was pulled, which another pull would undo; pull into another folder"
        )


def _refuse_another(
    store: Path, url: str, there: Mapping[str, tuple[int, str]], wanted: Mapping[str, tuple[int, str]]
) -> None:
    """A shard or generation is never written twice: where it is another one, so is the store that was pushed."""
    if "catalog.sqlite" not in there:  # only half of it has come, and nobody reads it
        return
    for name in wanted:
        if name in there and name != "catalog.sqlite":
            raise StoreCorruptError(
                f"{store}: {name} is another one at {url}: what was pushed there since is another store, made anew. "
                "Searches go on in what is here; pull into a new folder"
            )


def _mark(store: Path, url: str, *states: Mapping[str, tuple[int, str]]) -> None:
    """Note where a copy comes from, and which catalogs may be found in it."""
    catalogs = [files["catalog.sqlite"][1] for files in states if "catalog.sqlite" in files]
    replace_text(store / _PULLED, json.dumps({"url": url, "catalogs": catalogs}, indent=1) + "\n")


def _there(store: Path) -> dict[str, tuple[int, str]]:
    """What a copy holds, by its own catalog and manifests; what they do not name is looked at, byte by byte."""
    found: dict[str, tuple[int, str]] = {}
    if (store / "catalog.sqlite").is_file():
        found["catalog.sqlite"] = facts_of(store / "catalog.sqlite")
        with contextlib.closing(Catalog(store / "catalog.sqlite")) as catalog:
            for number, shard in catalog.sealed().items():
                path = shard_path(store / "features", number)
                if path.is_file() and path.stat().st_size == shard.n_bytes:
                    found[path.relative_to(store).as_posix()] = (shard.n_bytes, shard.digest.hex())
    for path in (*(store / "features").glob("*.h5"), *(store / "index").glob("[0-9]*/*")):
        name = path.relative_to(store).as_posix()
        if name not in found and NAME.fullmatch(name):
            found[name] = facts_of(path)
    return found


def _fetch(bucket: Bucket, path: str, facts: tuple[int, str], target: Path, *, last: bool) -> None:
    """Download a file, and give it its name when every byte has been checked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _checked(bucket, path, facts, target) as arrived:
        if last:
            replace_catalog(target.parent, arrived)
        else:
            rename(arrived, target)


@contextlib.contextmanager
def _checked(bucket: Bucket, path: str, facts: tuple[int, str], target: Path) -> Iterator[Path]:
    arriving = target.with_name(target.name + ".pulled")
    try:
        with published(arriving) as partial, partial.open("wb") as file:
            digest, n_bytes = blake2b(digest_size=16), bucket.head(path)["size"]
            if n_bytes == facts[0]:
                for part in bucket.parts(path, n_bytes):
                    digest.update(part)
                    file.write(part)
            if (n_bytes, digest.hexdigest()) != facts:
                raise StoreCorruptError(
                    f"{path}: what is there ({n_bytes} bytes) is not what was pushed ({facts[0]} bytes); the copy "
                    "stays as it was. Push once with --all, and pull again"
                )
        yield arriving
    finally:
        arriving.unlink(missing_ok=True)


def _sweep(store: Path, files: Mapping[str, Any], generation: int) -> int:
    """Take away what is no longer part of the copy; the generation before stays for who still has it open."""
    names = {path.relative_to(store).as_posix() for path in (store / "features").glob("*.h5")} - set(files)
    with contextlib.closing(Catalog(store / "catalog.sqlite")) as catalog:
        sweep(store / "features", catalog)
    removed = len(names)
    for folder in sorted((store / "index").iterdir()):
        if folder.name.isdigit() and int(folder.name) < generation - 1:
            removed += remove_tree(folder)
    return removed
