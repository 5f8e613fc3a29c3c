"""What a config asks of each room, in that room's own words: no room knows the whole config."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from streamer.backbones import Output
from streamer.config import Config
from streamer.config import Source as SourceChoice
from streamer.errors import ConfigError, FingerprintMismatchError, StoreMissingError
from streamer.extraction import ExtractSettings, Network
from streamer.images import (
    ArraySource,
    FolderSource,
    Labels,
    ListSource,
    RemoteSource,
    Stl10Source,
    TarSource,
    ZipSource,
    read_labels,
)
from streamer.index import annoy_installed, require_annoy
from streamer.indexing import IndexSettings
from streamer.memory import budget_bytes
from streamer.objects import RemoteLimits
from streamer.records import Augmentation, ImageRef, Rejected
from streamer.store import FeatureSpec, Store, sorted_by_key

__all__ = [
    "chosen_network",
    "extract_settings",
    "fetches",
    "index_settings",
    "labels_of",
    "open_source",
    "remote_limits",
    "source_choice",
    "stored",
]


def extract_settings(config: Config) -> ExtractSettings:
    """How the network is to be run."""
    return ExtractSettings(
        engine=config.engine,
        device=config.device,
        budget_bytes=budget_bytes(config.memory.budget),
        gpu_fraction=config.memory.gpu_fraction,
        threads=config.run.threads,
        max_pixels=config.images.max_pixels,
        max_file_bytes=config.images.max_file,
    )


def index_settings(config: Config) -> IndexSettings:
    """How features are to be reduced and indexed.

    Raises
    ------
    ConfigError
        If the index is to be Annoy's and the package is not installed.
    """
    if config.index.kind == "annoy":
        require_annoy()
    kind = config.index.kind or ("annoy" if annoy_installed() else "ivf")
    return IndexSettings(
        kind=kind,
        components=config.reduce.components,
        whiten=config.reduce.whiten,
        parts=config.index.trees if kind == "annoy" else config.index.clusters,
        effort=config.index.search_k if kind == "annoy" else config.index.probes,
        seed=config.index.seed,
        candidates=config.search.candidates,
        recall=config.search.recall,
    )


def chosen_network(config: Config) -> Network:
    """The network to extract with; what the config leaves open is what made the store, where there is one.

    Raises
    ------
    ConfigError, WeightsError
        As `Network.choose`.
    FingerprintMismatchError
        If the store holds features that were imported.
    """
    with contextlib.suppress(StoreMissingError), Store(config.store) as store:
        if store.spec.imported:
            raise FingerprintMismatchError(
                f"{config.store}: holds features that were imported ({store.spec.indexed}); photos cannot be turned "
                "into such features here: give the config another 'store:', or bring more by 'streamer import'"
            )
    choice = config.backbone
    outputs = (
        None if choice.outputs is None else [Output(each.layer, each.pooling, each.grid) for each in choice.outputs]
    )
    size = None if choice.input_size is None else (choice.input_size, choice.input_size)
    name: str = choice.name
    weights = choice.weights
    left_open = name == weights == "auto"
    if left_open:
        # Weights that came to this machine since must not turn a library of photos away from its store.
        with contextlib.suppress(StoreMissingError), Store(config.store) as store:
            name, weights = store.spec.backbone, store.spec.weights
    return Network.choose(name, outputs, size, weights, choice.seed, config.precision, download=not left_open)


def stored(network: Network, config: Config) -> FeatureSpec:
    """What is stored of the network's features."""
    augmentation = None
    if config.augment.copies:
        from streamer.images.augment import AUGMENT_RECIPE

        augmentation = Augmentation(**config.augment.model_dump(), recipe=AUGMENT_RECIPE)
    return replace(network.spec(), dtype=config.storage.dtype, augmentation=augmentation)


def source_choice(config: Config) -> SourceChoice:
    """Where the photos are.

    Raises
    ------
    ConfigError
        If the config does not say.
    """
    if config.source is None:
        raise ConfigError(
            "'source' is missing (where the photos are, for example {folder: ~/Pictures}); without it, only "
            "'streamer reduce CONFIG' and 'streamer index CONFIG' have something to work on"
        )
    return config.source


def open_source(config: Config) -> Iterable[ImageRef | Rejected]:
    """The photos, to be listed in the order of their keys; of a folder, without the store that lies in it.

    Raises
    ------
    ConfigError
        If the config names no source, or the store is the source folder, or a pattern to exclude is not one, or no
        file fits a pattern.
    """
    source = source_choice(config)
    if source.folder is not None:
        return _open_folder(source.folder, list(source.exclude), config.store)
    if source.stl10 is not None:
        return Stl10Source(source.stl10)
    if source.array is not None:
        return ArraySource(source.array, source.dataset)
    if source.zip is not None:
        return _InOrder(ZipSource(source.zip))
    if source.list is not None:
        return _InOrder(ListSource(source.list, remote_limits(config)))
    if source.url is not None:
        if source.url.lower().startswith("http"):
            raise ConfigError(
                f"source.url: {source.url}: a web server cannot be listed; name its photos in source.list"
            )
        return _InOrder(RemoteSource(source.url, remote_limits(config)))
    return _InOrder(TarSource([path for pattern in source.tar for path in _fitting(pattern)]))


def remote_limits(config: Config) -> RemoteLimits:
    """How photos are fetched that are not on this machine."""
    remote = config.remote
    return RemoteLimits(remote.concurrency, remote.lookahead, remote.timeout_seconds, remote.retries)


def fetches(config: Config) -> bool:
    """Whether there may be photos that are not on this machine."""
    return source_choice(config).kind in ("url", "list")


class _InOrder:
    """A source that lists in another order than that of its keys."""

    def __init__(self, source: Iterable[ImageRef | Rejected]) -> None:
        self._source = source

    def __iter__(self) -> Iterator[ImageRef | Rejected]:
        return sorted_by_key(self._source)


def _open_folder(folder: Path, exclude: list[str], store: Path) -> FolderSource:
    if store.is_relative_to(folder):
        inner = store.relative_to(folder).as_posix()
        if inner == ".":
            raise ConfigError(f"store: {folder} is the source folder itself; give the store a folder of its own")
        exclude.append(f"{inner}/**")
    try:
        return FolderSource(folder, exclude)
    except ValueError as error:
        raise ConfigError(f"source.exclude: {error}") from None


def _fitting(pattern: Path) -> list[Path]:
    if not glob.has_magic(pattern.name) or pattern.exists():
        return [pattern]
    found = sorted(pattern.parent.glob(pattern.name))
    if not found:
        raise ConfigError(f"source.tar: no file fits {pattern}. Is the disk mounted?")
    return found


def labels_of(config: Config) -> Labels | None:
    """What the config's file says the images are; None where they are what their folders say."""
    return None if config.labels is None else read_labels(config.labels)
