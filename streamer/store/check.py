"""Looking for damage in catalog and shards, and dropping what is damaged so that the next run makes it anew."""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py

from streamer.errors import StoreCorruptError, StoreFormatError
from streamer.files import PARTIAL, digest_of, fsync_folder, published
from streamer.store.catalog import Catalog
from streamer.store.catalog_writer import CatalogWriter
from streamer.store.reader import ShardReader
from streamer.store.shard import SealedShard, shard_path
from streamer.store.spec import FeatureSpec
from streamer.store.writer import beside

__all__ = ["Fault", "catalog_faults", "drop_shards", "remake_catalog", "shard_faults", "view_fault"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fault:
    """Something that is not as it was written.

    Attributes
    ----------
    place : str
        The file, relative to the store.
    what : str
    shard : int or None
        Number of the shard that is damaged.
    certain : bool
        Whether it is damage. False where the file cannot be read at present, which may pass.
    """

    place: str
    what: str
    shard: int | None = None
    certain: bool = True


def catalog_faults(path: Path) -> list[Fault]:
    """What is wrong with the catalog of the store at `path`: nothing else can be looked at until it is sound.

    Raises
    ------
    StoreFormatError
        If it was made by a newer release: that is no damage.
    """
    place = path / "catalog.sqlite"
    if not place.is_file():
        return [Fault(place.name, "missing, though there are shards")]
    try:
        catalog = Catalog(place)
    except StoreFormatError:
        raise
    except StoreCorruptError as error:
        return [Fault(place.name, str(error))]
    with contextlib.closing(catalog):
        return [Fault(place.name, text) for text in catalog.inconsistencies()]


def shard_faults(
    path: Path, catalog: Catalog, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[Fault]:
    """What is wrong with the shards: each is read whole, and compared with what the catalog noted when it was sealed.

    Raises
    ------
    StoreFormatError
        If a shard was made by a newer release.
    """
    features = path / "features"
    shards = catalog.sealed()
    with contextlib.closing(ShardReader(features, catalog.spec)) as reader:
        for done, (number, expected) in enumerate(shards.items()):
            place = shard_path(features, number)
            fault = _shard_fault(path, place, number, expected, reader)
            if fault is not None and number in catalog.sealed():  # else compact has replaced it meanwhile
                yield fault
            progress(done + 1, len(shards))


def _shard_fault(path: Path, place: Path, number: int, expected: SealedShard, reader: ShardReader) -> Fault | None:
    name, what, certain = place.relative_to(path).as_posix(), "", True
    try:
        n_bytes, digest = digest_of(place)
        if n_bytes != expected.n_bytes:
            what = f"{n_bytes} bytes, not the {expected.n_bytes} that were written"
        elif digest != expected.digest:
            what = "its checksum is not that of what was written"
        elif reader.shard_rows(number) != expected.rows:
            what = f"{reader.shard_rows(number)} rows, not {expected.rows}"
    except StoreFormatError:
        raise
    except FileNotFoundError:
        what = "missing"
    except OSError as error:
        what, certain = f"cannot be read ({error.strerror or error})", error.errno == errno.EIO
    except StoreCorruptError as error:
        what = str(error)
    return Fault(name, what, number, certain) if what else None


def view_fault(path: Path, catalog: Catalog) -> Fault | None:
    """What is wrong with ``features.h5``, if anything: it may be missing or old, but not show what is not there."""
    place = path / "features.h5"
    if not place.is_file():
        return None
    try:
        with h5py.File(place, "r", locking=False) as file:
            shown = {
                source.file_name for name in catalog.spec.outputs for source in file["features"][name].virtual_sources()
            }
    except (OSError, KeyError, RuntimeError) as error:
        return Fault(place.name, f"does not open ({error})")
    absent = sorted(name for name in shown if not (path / name).is_file())
    return Fault(place.name, f"shows rows of {absent[0]}, which is not there") if absent else None


def drop_shards(path: Path, catalog: CatalogWriter, shards: list[int]) -> int:
    """Forget shards and all their rows, in one transaction. Their files are set aside as ``000003.h5.damaged``.

    Returns
    -------
    int
        Images that the next run will extract again.
    """
    with catalog.transaction():
        images = sum(catalog.drop_shard(shard) for shard in shards)
    for shard in shards:
        _set_aside(shard_path(path / "features", shard))
    return images


def _set_aside(place: Path) -> None:
    if place.is_file():
        place.replace(place.with_name(place.name + ".damaged"))
        fsync_folder(place.parent)


def remake_catalog(path: Path) -> int:
    """Make the catalog anew from the shards that can be read; the damaged one stays, as ``catalog.sqlite.damaged``.

    Its images are none at first: the next run reads the source, finds the features of each file by its bytes, and
    extracts only what is missing. A shard that cannot be read whole is set aside, too.

    Returns
    -------
    int
        Rows that were found.
    """
    features, catalog = path / "features", path / "catalog.sqlite"
    specs: dict[str, FeatureSpec] = {}
    for place in sorted(features.glob("*.h5")):
        spec = _spec_of(place)
        if spec is not None:
            specs[spec.fingerprint] = spec
    if len(specs) != 1:
        found = "no shard can be read" if not specs else f"the shards hold features of {len(specs)} kinds"
        raise StoreCorruptError(
            f"{path}: the catalog is damaged and cannot be made anew: {found}. Restore catalog.sqlite from a backup, "
            f"or delete {path} and extract anew"
        )
    (spec,) = specs.values()
    for stale in beside(catalog.with_name(catalog.name + PARTIAL)):
        stale.unlink(missing_ok=True)
    with published(catalog) as partial:
        CatalogWriter.create(partial, spec)
        rows = _fill(partial, features, spec)
        for damaged in reversed(beside(catalog)):  # logs first: they must never be taken for the new one's
            if damaged.exists():
                damaged.replace(damaged.with_name(damaged.name.replace(catalog.name, f"{catalog.name}.damaged")))
        fsync_folder(path)
    return rows


def _fill(target: Path, features: Path, spec: FeatureSpec) -> int:
    rows = 0
    with (
        contextlib.closing(CatalogWriter(target, log=False)) as catalog,
        contextlib.closing(ShardReader(features, spec)) as reader,
    ):
        # No id of the old catalog comes again: what an index or a search still holds of those means nothing now.
        catalog.begin_ids_at(time.time_ns() // 1000)
        for place in sorted(features.glob("*.h5")):
            try:
                number = int(place.stem)
                contents = reader.verify(number)
                sealed = SealedShard(len(contents), *digest_of(place), reader.compression(number))
            except StoreFormatError:
                raise
            except (ValueError, StoreCorruptError) as error:
                _LOG.warning("%s is set aside: %s", place, error)
                _set_aside(place)
                continue
            with catalog.transaction():
                catalog.add_shard(number, sealed, reader.engine(number), contents, reader.copies(number))
            rows += len(contents)
        with catalog.transaction():
            catalog.forget_incomplete(spec.copies)
        catalog.begin_log()
    return rows


def _spec_of(shard: Path) -> FeatureSpec | None:
    try:
        with h5py.File(shard, "r", locking=False) as file:
            spec = FeatureSpec.from_json(file.attrs["spec"])
            return spec if spec.fingerprint == file.attrs["fingerprint"] else None
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, MemoryError):
        return None
