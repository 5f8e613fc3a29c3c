from __future__ import annotations

import numpy as np
import pytest

from streamer.engines import pool


@pytest.fixture
def maps() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3, (2, 5, 4, 7)).astype(np.float32)


def test_formulas(maps: np.ndarray) -> None:
    exact = maps.astype(np.float64)
    np.testing.assert_allclose(pool(maps, "avg"), exact.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(pool(maps, "max"), maps.max(axis=(1, 2)))
    # Radenovic et al. 2018, eq. 3, p = 3
    gem = np.mean(np.maximum(exact, 1e-6) ** 3.0, axis=(1, 2)) ** (1 / 3)
    np.testing.assert_allclose(pool(maps, "gem"), gem, rtol=1e-5)
    np.testing.assert_array_equal(pool(maps, "none"), maps)


@pytest.mark.parametrize("pooling", ["avg", "max", "gem"])
def test_shape_and_dtype(maps: np.ndarray, pooling: str) -> None:
    assert pool(maps, pooling).shape == (2, 7)
    assert pool(maps, pooling).dtype == np.float32
    assert pool(maps[:0], "none").shape == (0, 5, 4, 7)


def test_gem_of_dead_and_huge_channels_is_finite() -> None:
    maps = np.zeros((1, 3, 3, 2), np.float32)
    maps[..., 1] = 1e12
    np.testing.assert_allclose(pool(maps, "gem"), [[1e-6, 1e12]], rtol=1e-4)


def test_gem_lies_between_mean_and_maximum() -> None:
    maps = np.random.default_rng(1).uniform(0.1, 9, (3, 6, 6, 8)).astype(np.float32)
    assert (pool(maps, "avg") < pool(maps, "gem")).all()
    assert (pool(maps, "gem") < pool(maps, "max")).all()


@pytest.mark.parametrize("pooling", ["avg", "max", "gem"])
def test_a_grid_pools_cell_by_cell(pooling: str) -> None:
    maps = np.random.default_rng(2).uniform(0, 9, (2, 5, 6, 3)).astype(np.float32)
    rows, columns = (slice(0, 2), slice(2, 3), slice(3, 5)), (slice(0, 2), slice(2, 4), slice(4, 6))
    cells = [pool(maps[:, row, column], pooling) for row in rows for column in columns]
    np.testing.assert_allclose(pool(maps, pooling, 3), np.concatenate(cells, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(pool(maps, pooling, 1), pool(maps, pooling))


@pytest.mark.parametrize("grid", range(1, 8))
def test_the_cells_of_a_grid_cover_the_map_once(grid: int) -> None:
    maps = np.zeros((1, 7, 9, 1), np.float32)
    for row in range(7):
        for column in range(9):
            maps[:] = 0
            maps[0, row, column] = 1
            assert pool(maps, "max", grid).shape == (1, grid * grid)
            assert pool(maps, "max", grid).sum() == 1


def test_unknown_pooling_is_refused(maps: np.ndarray) -> None:
    with pytest.raises(ValueError, match="'median'"):
        pool(maps, "median")
