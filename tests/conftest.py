"""What tests of several rooms share: a small library of drawn pictures, a config for it, and small stores."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import yaml

from streamer.config import Config, load_config
from streamer.index import Generation, annoy_installed
from streamer.indexing import IndexBuilder, IndexSettings
from streamer.records import FeatureBatch, ImageRef
from streamer.store import CatalogWriter, FeatureSpec, Store, StoreWriter

# Chosen before any test imports Keras: no test may use a GPU by accident or depend on one.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 drawn pictures in 4 classes. Do not write to it: copy it."""
    from streamer.images.drawn import draw_pictures

    folder = tmp_path_factory.mktemp("pictures")
    draw_pictures(folder, classes=4, per_class=10, side=64, seed=1)
    return folder


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Config]:
    """Make a config for a folder: VGG16 with random weights on 32 x 32 pixels, which runs in a moment."""

    def make(folder: Path, *overrides: str) -> Config:
        path = tmp_path / "config.yaml"
        settings = {
            "store": "photos.store",
            "source": {"folder": str(folder)},
            "backbone": {"name": "vgg16", "weights": "random", "input_size": 32},
            # The budget counts the whole process, and that of the tests may hold TensorFlow from another test.
            "memory": {"budget": "8GiB"},
        }
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return load_config(path, overrides)

    return make


def spec(length: int = 8, name: str = "fc2") -> FeatureSpec:
    """A spec of features of that length."""
    return FeatureSpec("vgg16", "random", 0, "0" * 64, (224, 224), "test-1", "full", {name: (length,)})


def ref(key: str, size: int = 100, mtime_ns: int = 1) -> ImageRef:
    """An image that stands nowhere."""
    return ImageRef(key, f"/photos/{key}", size, mtime_ns, key.rpartition("/")[0].rpartition("/")[2])


def feature_batch(keys: Sequence[str], features: np.ndarray, name: str = "fc2", **state: int) -> FeatureBatch:
    """A batch whose images have these features."""
    rows = features.astype(np.float32)
    contents = tuple(content(key, row) for key, row in zip(keys, rows, strict=True))
    return FeatureBatch(tuple(ref(key, **state) for key in keys), contents, {name: rows})


def content(key: str, row: np.ndarray) -> bytes:
    """Stands in for the digest of a file: another key or other features are other content."""
    return blake2b(key.encode() + row.tobytes(), digest_size=16).digest()


@pytest.fixture
def open_writer(tmp_path: Path) -> Callable[..., StoreWriter]:
    """Open a writer on a store in the test's folder."""

    def open_(length: int = 8, **options: object) -> StoreWriter:
        options = {"engine": "test", "limits": "none", **options}
        return StoreWriter(tmp_path / "a.store", spec(length), **options)  # type: ignore[arg-type]

    return open_


def write_features(
    path: Path, rows: np.ndarray, keys: Sequence[str] | None = None, *, shard_rows: int = 100, first: int = 0
) -> None:
    """Put features into a store, under numbered keys, some in each shard."""
    keys = keys or [f"c{number % 3}/{number:04d}.jpg" for number in range(first, first + len(rows))]
    with StoreWriter(path, spec(rows.shape[1]), engine="test", limits="none") as writer:
        for start in range(0, len(rows), shard_rows):
            part = slice(start, start + shard_rows)
            writer.append(feature_batch(keys[part], rows[part]))
            writer.commit()


def remember(path: Path, budget_bytes: int = 2**30, **search: object) -> None:
    """Have a store answer queries so, as after a run."""
    with contextlib.closing(CatalogWriter(path / "catalog.sqlite")) as catalog:
        catalog.set_settings({"search": search, "extract": {"budget_bytes": budget_bytes}})


def delete(path: Path, keys: Sequence[str]) -> None:
    """Drop images, as if they were gone from the source."""
    with contextlib.closing(CatalogWriter(path / "catalog.sqlite")) as catalog, catalog.transaction():
        catalog.execute(f"DELETE FROM images WHERE key IN ({','.join('?' * len(keys))})", list(keys))


def publish_index(path: Path, kind: str, *, components: int = 16, effort: int | None = None) -> Generation:
    """Publish an index of a store; skips the test where annoy is asked for and not installed."""
    if kind == "annoy" and not annoy_installed():
        pytest.skip("annoy is not installed on this platform")
    settings = IndexSettings(kind, components, False, None, effort, 0, 50, 0.99)
    with Store(path) as store:
        builder = IndexBuilder(store, settings, 2**30, lambda *_: None, lambda: False)
        if kind != "exact":
            builder.reduce()
        return builder.build()
