"""Features and names out of a store, in a format that other tools read."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from streamer.errors import ConfigError, Interrupted, StreamerError
from streamer.exchange.npy import NpyFolder
from streamer.exchange.npz import NpzFolder
from streamer.exchange.parquet import ParquetWriter, is_parquet_export, require_parquet
from streamer.exchange.rows import export_blocks
from streamer.files import published, published_folder, require_space
from streamer.records import ExportBlock, Progress
from streamer.store import Store, is_plain_export, writing_plain

__all__ = ["FORMATS", "Export", "export_features"]

FORMATS = ("npy", "hdf5", "npz", "parquet")
_FOLDERS = ("npy", "npz")
_SUFFIXES = {".h5": "hdf5", ".hdf5": "hdf5", ".parquet": "parquet", ".npz": "npz"}
_MANIFEST = "export.json"
_MARK = "streamer_export"
# Of an image, beside its features, in all the files of a format together.
_NAMES_BYTES = 600


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes
    ----------
    path, format : str
    outputs : dict of str to list of int
        Shape of one image's feature, by output.
    images : int
    bytes : int
        Of all files.
    seconds : float
    """

    path: str
    format: str
    outputs: dict[str, list[int]]
    images: int
    bytes: int
    seconds: float


class _Writer(Protocol):
    def append(self, block: ExportBlock) -> None: ...


def export_features(
    path: Path,
    target: Path,
    *,
    format: str | None = None,  # noqa: A002 - as the option is called
    outputs: Sequence[str] | None = None,
    force: bool = False,
    progress: Progress = lambda stage, done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Export:
    """Write the features of all live images, by id, and their names beside them.

    Memory: a block of some megabytes, and 8 bytes an image. Until all is written, nothing stands at `target`, or what
    stood there before.

    Parameters
    ----------
    path : Path
        The store's folder.
    target : Path
        A folder with ``npy`` and ``npz``, a file with ``hdf5`` and ``parquet``. An export that is there is replaced.
    format : {"npy", "hdf5", "npz", "parquet"}, optional
        By default, what the suffix of `target` says, else ``npy``.
    outputs : sequence of str, optional
        Which to write; by default the one that is indexed. Only ``hdf5`` takes several.
    force : bool
        Replace what is no export, too.
    progress, should_stop : callable, optional
        Called with ``("export", images done, images)``; asked before each block.

    Returns
    -------
    Export

    Raises
    ------
    ConfigError
        If there is no such output or format, or `target` is not to be replaced.
    StoreMissingError, StoreCorruptError
        If there is no readable store.
    EngineUnavailableError
        If pyarrow is needed and not installed.
    StoreWriteError
        If the disk has no room.
    Interrupted
        `should_stop` said so; `target` is as it was.
    """
    began = time.monotonic()
    kind = format or _SUFFIXES.get(target.suffix.lower(), "npy")
    if kind not in FORMATS:
        raise ConfigError(f"--format {kind!r} is not one of {', '.join(FORMATS)}")
    if kind == "parquet":
        require_parquet()
    with Store(path) as store:
        names = _chosen(store, outputs, kind)
        if not len(store):
            raise StreamerError(f"{path}: holds no images to export; run 'streamer run CONFIG'")
        _refuse_to_replace(target, kind, store, force=force)
        row_bytes = 4 * sum(store.feature_length(name) for name in names) + _NAMES_BYTES
        require_space(target.absolute().parent, len(store) * row_bytes, f"exporting {len(store)} images")
        total, done = len(store), 0
        with _opened(target, kind, store, names) as writer:
            for block in export_blocks(store, names):
                if should_stop():
                    raise Interrupted(f"stopped; {target} was not written")
                writer.append(block)
                done += len(block.ids)
                progress("export", done, total)
        shapes = {name: list(store.spec.outputs[name]) for name in names}
    files = [each for each in target.rglob("*") if each.is_file()] if target.is_dir() else [target]
    n_bytes = sum(each.stat().st_size for each in files)
    return Export(str(target), kind, shapes, done, n_bytes, round(time.monotonic() - began, 3))


def _chosen(store: Store, outputs: Sequence[str] | None, kind: str) -> list[str]:
    names = list(dict.fromkeys(outputs or [store.spec.indexed]))
    for name in names:
        if name not in store.spec.outputs:
            raise ConfigError(f"{store.path}: no output {name!r}; there are: {', '.join(store.spec.outputs)}")
    if len(names) > 1 and kind != "hdf5":
        raise ConfigError(
            f"--format {kind} holds one output, not {len(names)} ({', '.join(names)}): export each by itself with "
            "--output, or take --format hdf5"
        )
    return names


def _refuse_to_replace(target: Path, kind: str, store: Store, *, force: bool) -> None:
    place, home = target.resolve(), store.path.resolve()
    if place == home or home in place.parents or place in home.parents or (target / "catalog.sqlite").exists():
        raise ConfigError(f"{target}: is, holds or lies in a store; export to a place of its own")
    if not place.parent.is_dir():
        raise ConfigError(f"{target}: there is no folder {place.parent}; make it first")
    if not target.exists():
        return
    if target.is_dir() != (kind in _FOLDERS):
        is_, makes = ("folder", "file") if target.is_dir() else ("file", "folder")
        raise ConfigError(f"{target}: is a {is_}, and --format {kind} makes a {makes}; name another place")
    if not force and not _is_export(target, kind):
        raise ConfigError(
            f"{target}: is there and no export of a store; name another place, or replace it with --force"
        )


def _is_export(target: Path, kind: str) -> bool:
    if kind == "hdf5":
        return is_plain_export(target)
    if kind == "parquet":
        return is_parquet_export(target)
    if not any(target.iterdir()):
        return True
    try:
        return _MARK in json.loads((target / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


@contextlib.contextmanager
def _opened(target: Path, kind: str, store: Store, names: list[str]) -> Iterator[_Writer]:
    spec = store.spec
    if kind == "hdf5":
        with writing_plain(target, spec, names) as plain:
            yield plain
        return
    (name,) = names
    shape = spec.outputs[name]
    facts = {"output": name, "shape": list(shape), "fingerprint": spec.fingerprint, "spec": json.loads(spec.to_json())}
    if kind == "parquet":
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
        with (
            published(target) as partial,
            contextlib.closing(ParquetWriter(partial, name, shape, facts=texts)) as table,
        ):
            yield table
        return
    with published_folder(target) as folder:
        with contextlib.closing(NpyFolder(folder, name, shape) if kind == "npy" else NpzFolder(folder, name)) as files:
            yield files
        _write_manifest(folder, {"format": kind, **facts})


def _write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    text = json.dumps({_MARK: 1, **facts}, indent=1) + "\n"
    (folder / _MANIFEST).write_text(text, encoding="utf-8", newline="\n")
