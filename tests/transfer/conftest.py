"""Stores with classes that a line can tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import write_features

CLASSES, LENGTH = 3, 8


def rows_of(count: int, apart: float = 4.0, seed: int = 0) -> np.ndarray:
    """Features whose class is their number modulo 3, as `write_features` names them."""
    rows = np.random.default_rng(seed).normal(size=(count, LENGTH)).astype(np.float32)
    rows[np.arange(count), np.arange(count) % CLASSES] += apart
    return rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """400 rows in 3 classes and 5 shards."""
    write_features(tmp_path / "a.store", rows_of(400), shard_rows=90)
    return tmp_path / "a.store"
