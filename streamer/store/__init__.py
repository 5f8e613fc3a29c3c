"""The feature store: sealed HDF5 shards and the SQLite catalog that says which of them are real."""

from streamer.store.catalog import Catalog, Entry, Failure, LastRun
from streamer.store.changes import Changes, find_changes
from streamer.store.lock import StoreLock
from streamer.store.reader import ShardMissingError
from streamer.store.spec import FORMAT, FeatureSpec
from streamer.store.store import Store
from streamer.store.writer import StoreWriter

__all__ = [
    "FORMAT",
    "Catalog",
    "Changes",
    "Entry",
    "Failure",
    "FeatureSpec",
    "LastRun",
    "ShardMissingError",
    "Store",
    "StoreLock",
    "StoreWriter",
    "find_changes",
]
