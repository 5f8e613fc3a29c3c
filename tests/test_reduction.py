"""Out-of-core PCA against scikit-learn's in-memory one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from streamer.errors import IndexMissingError
from streamer.reduction import Reducer, block_sizes, fit, fit_plane, unit_rows, usable_components


def rows_of(count: int, length: int, rank: int = 6, seed: int = 0) -> np.ndarray:
    """Rows with `rank` strong directions, a little noise, and a mean that is far from zero, as ReLU features have."""
    random = np.random.default_rng(seed)
    axes = random.normal(size=(rank, length)) * np.geomspace(4, 1, rank)[:, None]
    rows = random.normal(size=(count, rank)) @ axes + 0.001 * random.normal(size=(count, length)) + 5
    return rows.astype(np.float32)


def cut(rows: np.ndarray, target: int, minimum: int) -> Iterator[np.ndarray]:
    start = 0
    for size in block_sizes(len(rows), target, minimum):
        yield rows[start : start + size]
        start += size
    assert start == len(rows)


@pytest.mark.parametrize("target", [5, 16, 64, 1000])
@pytest.mark.parametrize("whiten", [False, True])
def test_fitting_on_blocks_equals_fitting_in_memory(target: int, whiten: bool) -> None:
    rows = rows_of(300, 24)
    # Dividing by the length adds one direction, that of the mean: 7 components hold all but the noise.
    reducer = fit(cut(rows, target, 7), len(rows), 24, 7, whiten)
    oracle = PCA(7, whiten=whiten, svd_solver="full").fit(unit_rows(rows).astype(np.float64))
    expected = unit_rows(oracle.transform(unit_rows(rows)).astype(np.float32))
    found = reducer.transform(rows)
    assert found.dtype == np.float32
    # Axes may point either way: the angles between rows are what counts.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=5e-3)
    np.testing.assert_allclose(reducer.explained_variance_ratio, oracle.explained_variance_ratio_, rtol=1e-2)


def test_all_components_keep_every_angle() -> None:
    rows = rows_of(50, 12)
    reducer = fit(cut(rows, 25, 12), 50, 12, 12, whiten=False)
    centred = unit_rows(rows) - unit_rows(rows).mean(axis=0)
    expected = unit_rows(centred) @ unit_rows(centred).T
    found = reducer.transform(rows)
    np.testing.assert_allclose(found @ found.T, expected, atol=2e-4)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_fewer_rows_than_components_lowers_the_number(count: int, caplog: pytest.LogCaptureFixture) -> None:
    rows = rows_of(count, 9)
    reducer = fit(cut(rows, 100, usable_components(256, count, 9)), count, 9, 256, whiten=True)
    assert len(reducer.components) == max(1, count - 1)
    assert f"not 256: there are {count} images of 9 features" in caplog.text
    found = reducer.transform(rows)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_identical_rows_and_rows_of_zeros_do_no_harm() -> None:
    rows = np.zeros((20, 6), np.float32)
    rows[:10] = [1, 2, 3, 4, 5, 6]
    assert np.isfinite(fit(cut(rows, 10, 3), 20, 6, 3, whiten=True).transform(rows)).all()
    same = np.ones((8, 6), np.float32)
    assert np.isfinite(fit(cut(same, 8, 3), 8, 6, 3, whiten=True).transform(same)).all()


@pytest.mark.parametrize(
    ("count", "target", "minimum"), [(10, 3, 1), (100, 30, 25), (99, 256, 25), (7, 2, 7), (26, 5, 25)]
)
def test_no_block_is_below_the_minimum_nor_far_above_the_target(count: int, target: int, minimum: int) -> None:
    sizes = list(block_sizes(count, target, minimum))
    assert sum(sizes) == count
    assert min(sizes) >= minimum
    assert max(sizes) <= max(target, 2 * minimum)
    assert max(sizes) - min(sizes) <= 1


def test_a_reducer_is_kept_as_plain_arrays(tmp_path: Path) -> None:
    rows = rows_of(40, 10)
    reducer = fit(cut(rows, 20, 4), 40, 10, 4, whiten=True)
    reducer.save(tmp_path / "reducer.npz")
    with np.load(tmp_path / "reducer.npz", allow_pickle=False) as data:
        assert set(data) == set(vars(reducer))
    again = Reducer.load(tmp_path / "reducer.npz")
    np.testing.assert_array_equal(again.transform(rows), reducer.transform(rows))
    assert (again.n_rows, again.whiten) == (40, True)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "pickle", "other"])
def test_a_damaged_reducer_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "reducer.npz"
    rows = rows_of(40, 10)
    fit(cut(rows, 20, 4), 40, 10, 4, whiten=False).save(path)
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "pickle":
        np.savez(path, mean=np.array([{"a": 1}], dtype=object))
    else:
        np.savez(path, mean=np.zeros(3))
    with pytest.raises(IndexMissingError, match=r"reducer\.npz: the reducer is damaged"):
        Reducer.load(path)


@pytest.mark.parametrize("n_features", [2, 40])
def test_the_plane_is_that_of_the_first_two_axes(n_features: int) -> None:
    random = np.random.default_rng(3)
    scales = np.geomspace(3, 0.05, n_features)
    rows = (random.normal(size=(500, n_features)) * scales + 1).astype(np.float32)
    plane = fit_plane(lambda: (rows[start : start + 64] for start in range(0, 500, 64)), n_features)
    unit = unit_rows(rows).astype(np.float64)
    _, _, axes = np.linalg.svd(unit - unit.mean(axis=0), full_matrices=False)
    expected = (unit - unit.mean(axis=0)) @ axes[:2].T
    placed = plane.project(rows)
    for axis in (0, 1):
        assert abs(np.corrcoef(placed[:, axis], expected[:, axis])[0, 1]) > 0.9999


def test_a_plane_of_one_direction_or_none_is_flat() -> None:
    same = np.ones((5, 3), np.float32)
    assert not fit_plane(lambda: [same], 3).project(same).any()
    line = np.array([[1.0], [-2.0]], np.float32)
    assert not fit_plane(lambda: [line], 1).project(line)[:, 1].any()
