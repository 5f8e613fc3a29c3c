"""A store handed to searchers elsewhere: what is new travels, under the name of its content; what points at it, last.

Below an address lie ``objects/<digest>``, never written twice, and ``CURRENT.json``, which says which of them make up
the store: its catalog, its shards, the published generation of its index. A push that ends half-way has changed nothing
for who pulls; the next goes on from there. Whoever pulls checks every byte against its digest, and moves the catalog
into place when all that it names is there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from hashlib import blake2b
from pathlib import Path
from typing import Any

from streamer.errors import ConfigError, StoreCorruptError, StoreFormatError
from streamer.files import digest_of, published, remove_tree, rename, replace_text
from streamer.index import current_generation
from streamer.objects import Bucket, ObjectMissingError, RemoteLimits, is_remote, open_bucket, redacted, url_fault
from streamer.records import Progress
from streamer.store import (
    Catalog,
    StoreLock,
    catalog_snapshot,
    replace_catalog,
    shard_path,
    sweep,
    writing,
)

__all__ = ["Transfer", "pull", "push"]

_LOG = logging.getLogger(__name__)

FORMAT = 1
_POINTER = "CURRENT.json"
_PULLED = "pulled.json"
_NAME = re.compile(r"catalog\.sqlite|features/\d{6,}\.h5|index/\d{6,}/[a-z_]+\.(?:json|npy|npz|ann)")
_DIGEST = re.compile(r"[0-9a-f]{32}")
_MOST_POINTER_BYTES = 64 * 2**20
# An object that nothing points at may be part of a push that is under way.
_UNFINISHED_FOR = timedelta(days=1)
_TRIES = 5


@dataclass(frozen=True)
class Transfer:
    """What a push or a pull did.

    Attributes
    ----------
    store, url : str
    images, generation : int
        What is there now; the generation is 0 where nothing was indexed.
    files, bytes : int
        What travelled.
    unchanged : int
        Files that were there.
    removed : int
        Files that are no longer part of the store, and were taken away.
    seconds : float
    """

    store: str
    url: str
    images: int
    generation: int
    files: int
    bytes: int
    unchanged: int
    removed: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as ``--json`` prints them."""
        return asdict(self)


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
    bucket, prefix = _open(url, limits)
    before = _pointer(bucket, prefix, url)
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
    bucket.put(_at(prefix, _POINTER), json.dumps({**pointer, "files": files}, indent=1).encode())
    removed = _prune(bucket, prefix, files, (before or {}).get("files", {}))
    seconds = round(time.monotonic() - began, 3)
    return Transfer(str(store), url, images, generation, sent, n_bytes, len(files) - sent, removed, seconds)


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
    bucket, prefix = _open(url, limits)
    pointer = _pointer(bucket, prefix, url)
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
            for done, (name, facts) in enumerate(sorted(wanted.items(), key=_catalog_last)):
                _fetch(bucket, _at(prefix, f"objects/{facts[1]}"), facts, store / name, last=name == "catalog.sqlite")
                progress("pull", done + 1, len(wanted))
            if pointer["generation"]:
                replace_text(store / "index" / "CURRENT", f"{pointer['generation']:06d}\n")
            _mark(store, url, files)
            removed = _sweep(store, files, pointer["generation"])
    n_bytes = sum(facts[0] for facts in wanted.values())
    seconds = round(time.monotonic() - began, 3)
    counts = (len(wanted), n_bytes, len(files) - len(wanted), removed)
    return Transfer(str(store), url, pointer["images"], pointer["generation"], *counts, seconds)


def _open(url: str, limits: RemoteLimits | None) -> tuple[Bucket, str]:
    if is_remote(url) or "://" in url:
        fault = url_fault(url) or ("is a web server, which takes no files" if url.lower().startswith("http") else None)
        if fault:
            raise ConfigError(f"{redacted(url)} {fault}")
    return open_bucket(url, limits or RemoteLimits())


def _at(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name


def _pointer(bucket: Bucket, prefix: str, url: str) -> dict[str, Any] | None:
    """What CURRENT.json says, once it has been looked through: it comes from elsewhere."""
    try:
        meta, chunks = bucket.chunks(_at(prefix, _POINTER))
    except ObjectMissingError:
        return None
    place = f"{url}/{_POINTER}"
    if meta["size"] > _MOST_POINTER_BYTES:
        raise StoreCorruptError(f"{place}: {meta['size']} bytes are more than such a file has; push anew")
    try:
        found = json.loads(b"".join(chunks))
        if found["format"] > FORMAT:
            raise StoreFormatError(f"{place}: was written by a newer release; upgrade streamer")
        whole = all(isinstance(found[name], int) for name in ("push", "images", "generation"))
        for name, (n_bytes, digest) in found["files"].items():
            whole &= bool(_NAME.fullmatch(name) and _DIGEST.fullmatch(digest)) and isinstance(n_bytes, int)
        if not whole or "catalog.sqlite" not in found["files"]:
            raise ValueError("names what is no part of a store")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreCorruptError(f"{place}: cannot be read ({error}); push anew") from error
    return dict(found)


def _contents(store: Path, catalog: Path) -> tuple[dict[str, tuple[int, str]], int, int]:
    """Size and digest of all files of a store as it is at one moment, its number of images, and its generation.

    The index first: one that is older than the catalog is right, one that is newer would name what is not there.
    """
    files: dict[str, tuple[int, str]] = {}
    generation = current_generation(store / "index") if (store / "index").is_dir() else None
    if generation is not None:
        for name, (n_bytes, digest) in generation.manifest.files.items():
            files[f"index/{generation.path.name}/{name}"] = (n_bytes, digest)
        files[f"index/{generation.path.name}/manifest.json"] = _facts(generation.path / "manifest.json")
    catalog_snapshot(store, catalog)
    with contextlib.closing(Catalog(catalog)) as opened:
        images = opened.count("images")
        for number, shard in opened.sealed().items():
            name = shard_path(store / "features", number).relative_to(store).as_posix()
            files[name] = (shard.n_bytes, shard.digest.hex())
    files["catalog.sqlite"] = _facts(catalog)
    return files, images, generation.number if generation is not None else 0


def _facts(path: Path) -> tuple[int, str]:
    n_bytes, digest = digest_of(path)
    return n_bytes, digest.hex()


def _objects(bucket: Bucket, prefix: str) -> dict[str, int]:
    """Digest and size of what was sent before."""
    return {meta["path"].rpartition("/")[2]: meta["size"] for meta in bucket.listed(_at(prefix, "objects"))}


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
    for done, (name, facts) in enumerate(sorted(wanted.items(), key=_catalog_last)):
        path = (scratch if name == "catalog.sqlite" else store) / name
        if _facts(path) != facts:
            raise StoreCorruptError(
                f"{path}: its checksum is not that of what was written, so nothing was published; see 'streamer check "
                f"{store}'"
            )
        bucket.put(_at(prefix, f"objects/{facts[1]}"), path)
        progress("push", done + 1, len(wanted))
    return len(wanted), sum(facts[0] for facts in wanted.values())


def _catalog_last(item: tuple[str, tuple[int, str]]) -> tuple[bool, str]:
    return item[0] == "catalog.sqlite", item[0]


def _prune(bucket: Bucket, prefix: str, *kept: Mapping[str, Any]) -> int:
    """Take away what neither this push nor the one before points at: who pulls meanwhile still finds the latter."""
    digests = {facts[1] for files in kept for facts in files.values()}
    before = datetime.now(timezone.utc) - _UNFINISHED_FOR
    stale = [
        meta["path"]
        for meta in bucket.listed(_at(prefix, "objects"))
        if meta["path"].rpartition("/")[2] not in digests and meta["last_modified"] < before
    ]
    if stale:
        bucket.delete(stale)
    return len(stale)


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
    if catalog.is_file() and _facts(catalog)[1] not in catalogs:
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
        found["catalog.sqlite"] = _facts(store / "catalog.sqlite")
        with contextlib.closing(Catalog(store / "catalog.sqlite")) as catalog:
            for number, shard in catalog.sealed().items():
                path = shard_path(store / "features", number)
                if path.is_file() and path.stat().st_size == shard.n_bytes:
                    found[path.relative_to(store).as_posix()] = (shard.n_bytes, shard.digest.hex())
    for path in (*(store / "features").glob("*.h5"), *(store / "index").glob("[0-9]*/*")):
        name = path.relative_to(store).as_posix()
        if name not in found and _NAME.fullmatch(name):
            found[name] = _facts(path)
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
