"""The feature store: sealed HDF5 shards and the SQLite catalog that says which of them are real."""

from streamer.store.catalog import Catalog, Entry, Failure, LastRun
from streamer.store.catalog_photos import CatalogPhotos, Photo
from streamer.store.catalog_writer import CatalogWriter
from streamer.store.changes import Changes, find_changes
from streamer.store.check import Fault, catalog_faults, drop_shards, remake_catalog, shard_faults, view_fault
from streamer.store.compact import Compaction, compact_shards
from streamer.store.compression import require_compression
from streamer.store.dataset import FeatureDataset
from streamer.store.examples import Examples, examples_by_side
from streamer.store.foreign import ForeignFile
from streamer.store.knn import writing_graph
from streamer.store.listing import sorted_by_key
from streamer.store.lock import StoreLock
from streamer.store.plain import is_plain_export, writing_plain
from streamer.store.reader import ShardMissingError
from streamer.store.record import RunRecord, recorded
from streamer.store.shard import shard_path, writing_bytes
from streamer.store.snapshot import catalog_snapshot, replace_catalog
from streamer.store.spec import FORMAT, FeatureSpec
from streamer.store.split import SIDES, Split
from streamer.store.store import Store
from streamer.store.thumbnails import ThumbnailCache, remove_damaged_thumbnails, thumbnail_faults
from streamer.store.writer import StoreWriter, publish_view, sweep, writing

__all__ = [
    "FORMAT",
    "SIDES",
    "Catalog",
    "CatalogPhotos",
    "CatalogWriter",
    "Changes",
    "Compaction",
    "Entry",
    "Examples",
    "Failure",
    "Fault",
    "FeatureDataset",
    "FeatureSpec",
    "ForeignFile",
    "LastRun",
    "Photo",
    "RunRecord",
    "ShardMissingError",
    "Split",
    "Store",
    "StoreLock",
    "StoreWriter",
    "ThumbnailCache",
    "catalog_faults",
    "catalog_snapshot",
    "compact_shards",
    "drop_shards",
    "examples_by_side",
    "find_changes",
    "is_plain_export",
    "publish_view",
    "recorded",
    "replace_catalog",
    "shard_path",
    "sorted_by_key",
    "remake_catalog",
    "remove_damaged_thumbnails",
    "require_compression",
    "shard_faults",
    "sweep",
    "thumbnail_faults",
    "view_fault",
    "writing",
    "writing_bytes",
    "writing_graph",
    "writing_plain",
]
