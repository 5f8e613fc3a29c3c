"""Every key, its type and its default: the one place where a default of the program stands."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from streamer.config.sizes import parse_bytes
from streamer.objects import redacted, url_fault

__all__ = ["NAMED_WEIGHTS", "Config", "Output", "Search", "Source", "expanded"]


def _budget(value: object) -> int | None:
    return None if value in ("auto", None) else parse_bytes(value)


def expanded(value: object) -> str:
    """Expand ``~`` and environment variables."""
    if not isinstance(value, (str, Path)) or not str(value):
        raise ValueError(f"{value!r} is not a path")
    try:
        expanded = str(Path(os.path.expandvars(str(value))).expanduser())
    except RuntimeError as error:
        raise ValueError(f"{str(value)!r}: {error}") from None
    unset = re.search(r"\$\{?(\w+)\}?", expanded)
    if unset and unset[1] not in os.environ:
        raise ValueError(f"{str(value)!r} names the environment variable {unset[1]}, which is not set")
    return expanded


def _path(value: object, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base", Path.cwd())
    return Path(os.path.normpath(Path(base) / expanded(value)))


NAMED_WEIGHTS = ("auto", "imagenet", "bundled", "random")


def _weights(value: object, info: ValidationInfo) -> str:
    return str(value) if value in NAMED_WEIGHTS else str(_path(value, info))


def _fraction(value: object) -> object:
    """Take ``30 %`` for 0.3."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value) if isinstance(value, str) else None
    return float(match[1]) / 100 if match else value


def _log_file(value: object, info: ValidationInfo) -> object:
    # YAML takes a bare `off` for false.
    return "off" if value is False else value if value in ("auto", "off") else _path(value, info)


def _paths(value: object, info: ValidationInfo) -> tuple[Path, ...]:
    """Take one path for a list of one."""
    return tuple(_path(each, info) for each in (value if isinstance(value, (list, tuple)) else [value]))


def _auto(value: object) -> object:
    return None if value == "auto" else value


ByteSize = Annotated[int, BeforeValidator(parse_bytes)]
PathFromBase = Annotated[Path, BeforeValidator(_path)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_PLACES = ("folder", "list", "tar", "zip", "array", "stl10", "url")


class Source(_Section):
    """Where the images are."""

    folder: PathFromBase | None = Field(None, description="searched recursively; label = name of the parent folder")
    list: PathFromBase | None = Field(None, description="a .txt, .csv, .jsonl or .parquet file with a path an image")
    tar: Annotated[tuple[Path, ...], BeforeValidator(_paths), Field(strict=False)] = Field(
        (), description="one archive or several (WebDataset): a path, a pattern such as train-*.tar, or a list of them"
    )
    zip: PathFromBase | None = Field(None, description="an archive")
    array: PathFromBase | None = Field(None, description="a .npy or .h5 file of uint8 (n, height, width, 3)")
    dataset: str | None = Field(None, description="which one of the .h5 file")
    stl10: PathFromBase | None = Field(None, description="a file of images in STL-10's binary format")
    url: str | None = Field(None, description="s3://bucket/prefix, gs:// or az://; credentials from the environment")
    exclude: Annotated[tuple[str, ...], Field(strict=False)] = ()
    max_removed: Annotated[float, BeforeValidator(_fraction)] = Field(
        0.3, ge=0, le=1, description="share of the library that one run may drop; more is taken for a mishap"
    )
    allow_empty: bool = Field(False, description="whether a source without a single image is what it seems")

    @property
    def kind(self) -> str:
        """Which of the places is given."""
        return next(name for name in _PLACES if getattr(self, name))

    @property
    def place(self) -> str:
        """The folder or file, in words for people."""
        place = getattr(self, self.kind)
        return " and ".join(map(str, place)) if isinstance(place, tuple) else str(place)

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        given = [name for name in _PLACES if getattr(self, name)]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else f"none of {', '.join(_PLACES)} is given"
            raise ValueError(f"{found}; give the one that says where the photos are, for example folder: ~/Pictures")
        if self.exclude and self.folder is None:
            raise ValueError(f"exclude is for the files of a folder; leave it out with {self.kind}")
        if self.url is not None and (fault := url_fault(self.url)):
            raise ValueError(f"url: {redacted(self.url)} {fault}")
        hdf5 = self.array is not None and self.array.suffix.lower() in (".h5", ".hdf5")
        if hdf5 and self.dataset is None:
            raise ValueError(f"dataset is missing: which one of {self.array} holds the images?")
        if self.dataset is not None and not hdf5:
            raise ValueError("dataset is for an array in an .h5 or .hdf5 file; leave it out")
        return self


class Images(_Section):
    """What counts as a readable image."""

    max_pixels: int = Field(100_000_000, ge=1)
    max_file: ByteSize = 256 * 2**20


class Output(_Section):
    """One kind of feature: a layer of the backbone, how its map becomes a vector, and in how many cells a side."""

    layer: str
    pooling: Literal["none", "avg", "max", "gem"] = "none"
    grid: int = Field(1, ge=1, le=16)


class BackboneChoice(_Section):
    """Which network, which weights, which layers.

    ``name: auto`` is what an existing store was made with; for a new one VGG16 if its ImageNet weights are on this
    machine, else the compact VGG16. ``weights: auto`` are the backbone's own. Without `outputs`, its default is taken.
    """

    name: Literal["auto", "vgg16", "vgg16_compact", "resnet50", "inception_v3"] = "auto"
    weights: Annotated[str, BeforeValidator(_weights)] = "auto"
    seed: int = Field(0, ge=0, description="of random weights")
    input_size: int | None = Field(None, ge=32, le=1024, description="side of the square fed to the network, pixels")
    outputs: Annotated[tuple[Output, ...], Field(strict=False, min_length=1)] | None = None


class Remote(_Section):
    """How images that are not on this machine are fetched."""

    concurrency: int = Field(16, ge=1, le=256)
    lookahead: ByteSize = Field(32 * 2**20, ge=1, description="bytes that may be fetched and not decoded yet")
    timeout_seconds: float = Field(30.0, gt=0, description="for one request; an image takes up to five times that")
    retries: int = Field(4, ge=0)


class Memory(_Section):
    """How much memory the whole process tree may hold. ``budget: auto`` is a quarter of the machine's."""

    budget: Annotated[int | None, BeforeValidator(_budget)] = 2**30
    gpu_fraction: float | None = Field(None, gt=0, le=1, description="of the GPU's memory; otherwise as much as needed")


class Reduce(_Section):
    """PCA before the index."""

    components: int = Field(256, ge=1)
    whiten: bool = False


class Index(_Section):
    """The search index.

    What is ``auto`` is chosen for the number of images, or measured for the recall that `search` asks for.
    """

    kind: Literal["annoy", "ivf", "exact"] | None = Field(None, description="without it: annoy if installed, else ivf")
    trees: Annotated[int | None, BeforeValidator(_auto)] = Field(None, ge=1, le=1000, description="of annoy")
    search_k: Annotated[int | None, BeforeValidator(_auto)] = Field(
        None, ge=1, lt=2**31, description="nodes of annoy's forest to look at for each query"
    )
    clusters: Annotated[int | None, BeforeValidator(_auto)] = Field(None, ge=1, le=100_000, description="of ivf")
    probes: Annotated[int | None, BeforeValidator(_auto)] = Field(
        None, ge=1, description="of ivf: nearest clusters to look through for each query"
    )
    seed: int = Field(0, ge=0, lt=2**31)
    rebuild_fraction: Annotated[float, BeforeValidator(_fraction)] = Field(
        0.1, ge=0, description="of the indexed images; what is newer is searched beside the index until it is more"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Index:
        for kind, names in {"annoy": ("trees", "search_k"), "ivf": ("clusters", "probes")}.items():
            for name in names:
                if self.kind != kind and (self.kind or kind == "ivf") and getattr(self, name) is not None:
                    raise ValueError(f"{name} belongs to kind: {kind}; set that, or leave {name} out")
        return self


class Search(_Section):
    """How queries are answered."""

    k: int = Field(10, ge=1)
    candidates: int = Field(200, ge=1)
    rerank: bool = True
    recall: float = Field(0.99, gt=0, le=1, description="recall@10 against exact search that the index is tuned for")
    metric: Literal["cosine", "l2"] = Field("cosine", description="l2: Euclidean distance, with index.kind: exact only")


class Storage(_Section):
    """How features lie on the disk. Shards that are there stay as they are; another dtype takes another store."""

    dtype: Literal["float32", "float16"] = Field("float32", description="float16: half the bytes, rounded to 11 bits")
    compression: Literal["none", "gzip", "lzf", "blosc"] = Field(
        "none", description="blosc needs the extra of its name"
    )


class Augment(_Section):
    """Rows of randomly changed copies of each image, to train on. A store takes those of one kind."""

    copies: int = Field(0, ge=0, le=255, description="of each image; 0 is none")
    flip: bool = Field(True, description="mirror half of them, left to right")
    crop: Annotated[float, BeforeValidator(_fraction)] = Field(
        0.1, ge=0, lt=1, description="of each side: at most this much is cut off"
    )
    brightness: Annotated[float, BeforeValidator(_fraction)] = Field(
        0.2, ge=0, le=1, description="pixels are multiplied by a factor in [1 - brightness, 1 + brightness]"
    )
    seed: int = Field(0, ge=0, lt=2**31)


class Run(_Section):
    """How a run goes about its work.

    It commits when a shard is that old or that large, whichever comes first. ``log_file: auto`` is ``logs/run.log`` in
    the store.
    """

    commit_seconds: float = Field(60.0, gt=0)
    commit_size: ByteSize = 256 * 2**20
    threads: int | None = Field(None, ge=1, description="decoding threads; otherwise one a core")
    max_minutes: float | None = Field(None, gt=0, description="stop extracting then; the next run goes on from there")
    log_file: Annotated[Path | Literal["auto", "off"], BeforeValidator(_log_file)] = "auto"
    on_failure: str | Annotated[tuple[str, ...], Field(strict=False)] | None = Field(
        None, description="a line for the shell, or a program and its arguments, to run when a run has failed"
    )


class Config(_Section):
    """All that a run needs to know. Attributes are the sections of the YAML file.

    Without a source, nothing can be extracted; what a store holds can still be reduced and indexed.
    """

    store: PathFromBase
    source: Source | None = None
    labels: PathFromBase | None = Field(None, description="a CSV file, key,label, in the place of the folders' names")
    images: Images = Images()
    remote: Remote = Remote()
    backbone: BackboneChoice = BackboneChoice()
    device: Literal["auto", "cpu", "gpu"] = "auto"
    engine: Literal["auto", "ncnn", "keras"] = "auto"
    precision: Literal["full", "mixed"] = Field("full", description="mixed: fully connected weights as float16")
    memory: Memory = Memory()
    storage: Storage = Storage()
    augment: Augment = Augment()
    reduce: Reduce = Reduce()
    index: Index = Index()
    search: Search = Search()
    run: Run = Run()

    @model_validator(mode="after")
    def _index_knows_metric(self) -> Config:
        if self.search.metric == "l2" and self.index.kind != "exact":
            raise ValueError(
                "search.metric: l2 looks at every image, an index knows angles only: set index.kind: exact"
            )
        return self

    @property
    def log_file(self) -> Path | None:
        """Where the log goes, or None."""
        if isinstance(self.run.log_file, Path):
            return self.run.log_file
        return self.store / "logs" / "run.log" if self.run.log_file == "auto" else None
