"""Features and names of a store in a table of PostgreSQL with pgvector, brought up to date night by night."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.errors import ConfigError, EngineUnavailableError, FingerprintMismatchError, Interrupted, StreamerError
from streamer.exchange.rows import export_blocks
from streamer.objects import redacted
from streamer.records import ExportBlock, Progress
from streamer.store import Store

__all__ = ["TableExport", "export_to_postgres", "is_postgres"]

_NAMES_AT_A_TIME = 10_000
# pgvector 0.8: a column holds 16,000 numbers; an HNSW index takes 2,000 of 4 bytes, or 4,000 of 2.
_MOST_STORED = 16_000
_MOST_INDEXED = 2_000
_MOST_INDEXED_HALF = 4_000


@dataclass(frozen=True)
class TableExport:
    """What was written to a table.

    Attributes
    ----------
    table : str
    images : int
        Rows in it now.
    added, removed, renamed : int
        Rows that came, that went, and whose key, label or path has changed.
    dimension : int
    indexed : bool
        Whether the vectors are few enough numbers for an HNSW index.
    sql : str
        A query for the ten nearest of ``%(features)s``.
    seconds : float
    """

    table: str
    images: int
    added: int
    removed: int
    renamed: int
    dimension: int
    indexed: bool
    sql: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as ``streamer export --json`` prints them."""
        return asdict(self)


def is_postgres(target: str) -> bool:
    """Whether a target of an export is a database."""
    return target.startswith(("postgresql://", "postgres://"))


def export_to_postgres(
    path: Path,
    url: str,
    *,
    table: str = "photos",
    output: str | None = None,
    progress: Progress = lambda stage, done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TableExport:
    """Bring a table up to date with a store.

    A row an image: ``id`` bigint, the key of the table; ``key``, ``label``, ``path`` text; ``features`` vector, those
    of one output, flattened. Rows are committed a block at a time: an export that was interrupted goes on where it was.
    What has not changed is not sent again.

    Parameters
    ----------
    path : Path
        The store's folder.
    url : str
        ``postgresql://user@host/database``; the password from PGPASSWORD or a ``.pgpass`` file.
    table : str
        Made when it is not there; may begin with a schema's name and a dot.
    output : str, optional
        By default the one that is indexed.
    progress, should_stop : callable, optional
        Called with ``("export", images done, images to send)``; asked before each block.

    Returns
    -------
    TableExport

    Raises
    ------
    ConfigError
        If there is no such output, or it has more numbers than pgvector stores.
    FingerprintMismatchError
        If the table holds other features, or was made by somebody else.
    EngineUnavailableError
        If psycopg or pgvector is not installed.
    StreamerError
        If the database cannot be reached, or refuses.
    Interrupted
        `should_stop` said so; what was sent is committed.
    """
    began = time.monotonic()
    psycopg = _psycopg()
    with Store(path) as store:
        name = output or store.spec.indexed
        if name not in store.spec.outputs:
            raise ConfigError(f"{path}: no output {name!r}; there are: {', '.join(store.spec.outputs)}")
        dimension = store.feature_length(name)
        if dimension > _MOST_STORED:
            raise ConfigError(
                f"{path}: {name} has {dimension} numbers, and pgvector stores no more than {_MOST_STORED}: export a "
                "pooled output"
            )
        try:
            with _connected(psycopg, url) as connection:
                target = _Table(connection, table, store, name, dimension)
                target.prepare()
                removed, renamed, missing = target.compare()
                added = target.fill(missing, progress, should_stop)
                indexed = target.index()
                images = target.count()
        except psycopg.Error as error:
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise StreamerError(
                f"{table}: the database says: {said}. What was committed before is there; export again goes on from it"
            ) from None  # its own words may hold the address, and that a password
        seconds = round(time.monotonic() - began, 3)
        return TableExport(table, images, added, removed, renamed, dimension, indexed, target.sql, seconds)


def _connected(psycopg: Any, url: str) -> Any:
    try:
        psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise ConfigError(
            f"{redacted(url)}: is no address of a database; see 'Connection URIs' in the documentation of PostgreSQL"
        ) from None  # its own words quote the part with the password
    return psycopg.connect(url)


class _Table:
    def __init__(self, connection: Any, table: str, store: Store, output: str, dimension: int) -> None:
        from psycopg import sql

        self._connection = connection
        self._store = store
        self._output = output
        self._dimension = dimension
        self._table = sql.Identifier(*table.split(".", 1))
        self._name = table
        self._half = dimension > _MOST_INDEXED
        cast = f"::halfvec({dimension})" if self._half else ""
        self._facts = {"streamer": 1, "fingerprint": store.spec.fingerprint, "output": output}
        away = f"features{cast} <=> %(features)s{cast}"
        name = self._table.as_string(connection)
        self.sql = f"SELECT key, label, 1 - ({away}) AS score FROM {name} ORDER BY {away} LIMIT 10"  # noqa: S608

    def _run(self, statement: str, *parameters: Any) -> Any:
        from psycopg import sql

        return self._connection.execute(sql.SQL(statement).format(table=self._table), parameters or None)

    def prepare(self) -> None:
        """Make the table, or see that it is the one of this store."""
        import psycopg

        try:
            with self._connection.transaction():
                self._run("CREATE EXTENSION IF NOT EXISTS vector")
        except psycopg.Error as error:
            if not self._run("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone():
                raise EngineUnavailableError(
                    f"the database has no pgvector, and it cannot be added ({type(error).__name__}): have its owner "
                    "install it (Debian: postgresql-NN-pgvector) and run CREATE EXTENSION vector"
                ) from None
        self._run(
            "CREATE TABLE IF NOT EXISTS {table} (id bigint PRIMARY KEY, key text NOT NULL, label text NOT NULL, "
            f"path text NOT NULL, content bytea NOT NULL, features vector({self._dimension}) NOT NULL)"
        )
        name = self._table.as_string(self._connection)
        said = self._run("SELECT obj_description(%s::regclass, 'pg_class')", name).fetchone()[0]
        if said is None and not self._run("SELECT 1 FROM {table} LIMIT 1").fetchone():
            from psycopg import sql

            facts = sql.Literal(json.dumps(self._facts))
            self._connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(self._table, facts))
        elif said != json.dumps(self._facts):
            raise FingerprintMismatchError(
                f"{self._name}: the table holds something else than {self._output} of this store ({said}): name "
                "another with --table, or drop it"
            )
        self._connection.commit()

    def compare(self) -> tuple[int, int, NDArray[np.int64]]:
        """Take away what is gone, rename what is called otherwise; how many, and the ids of what is missing."""
        self._run("CREATE TEMP TABLE live (id bigint PRIMARY KEY, key text, label text, path text, content bytea)")
        with self._connection.cursor().copy("COPY live FROM STDIN") as copy:
            for key, number, _, _, path, label, content in self._store.catalog.known():
                copy.write_row((number, _storable(key), _storable(label), _storable(path), content))
        self._run("ANALYZE live")
        # By their content, too: another store may have the same ids.
        removed = self._run(
            "DELETE FROM {table} t WHERE NOT EXISTS "
            "(SELECT 1 FROM live WHERE live.id = t.id AND live.content = t.content)"
        ).rowcount
        renamed = self._run(
            "UPDATE {table} t SET key = live.key, label = live.label, path = live.path FROM live "
            "WHERE live.id = t.id AND (t.key, t.label, t.path) IS DISTINCT FROM (live.key, live.label, live.path)"
        ).rowcount
        from psycopg import sql

        query = "SELECT id FROM live WHERE NOT EXISTS (SELECT 1 FROM {table} t WHERE t.id = live.id) ORDER BY id"
        with self._connection.cursor(name="missing") as cursor:  # of the server's: no more than a page comes at a time
            cursor.itersize = _NAMES_AT_A_TIME
            cursor.execute(sql.SQL(query).format(table=self._table))
            missing = np.fromiter((row[0] for row in cursor), np.int64)
        self._connection.commit()
        return removed, renamed, missing

    def fill(self, missing: NDArray[np.int64], progress: Progress, should_stop: Callable[[], bool]) -> int:
        """Send what is missing, and commit each block."""
        done = 0
        for block in export_blocks(self._store, [self._output], missing):
            if should_stop():
                raise Interrupted(f"stopped after {done} images, which are committed; export again goes on from there")
            self._append(block)
            self._connection.commit()
            done += len(block.ids)
            progress("export", done, len(missing))
        return done

    def _append(self, block: ExportBlock) -> None:
        from psycopg import sql

        rows = block.features[self._output].reshape(len(block.ids), -1)
        statement = sql.SQL("COPY {} (id, key, label, path, content, features) FROM STDIN").format(self._table)
        query = "SELECT id, content FROM live WHERE id BETWEEN %s AND %s"
        contents = dict(self._run(query, int(block.ids[0]), int(block.ids[-1])).fetchall()) if len(block.ids) else {}
        with self._connection.cursor().copy(statement) as copy:
            for number, *names, row in zip(
                block.ids.tolist(), block.keys, block.labels, block.paths, rows, strict=True
            ):
                vector = "[" + ",".join(map(repr, row.tolist())) + "]"
                copy.write_row((number, *map(_storable, names), contents[number], vector))

    def index(self) -> bool:
        """Build the index after the rows are there, which is many times as fast; it is kept up to date from then on."""
        if self._dimension > _MOST_INDEXED_HALF:
            return False
        from psycopg import sql

        half = f"(features::halfvec({self._dimension})) halfvec_cosine_ops"
        column = half if self._half else "features vector_cosine_ops"
        index = sql.Identifier(self._name.rpartition(".")[2] + "_features_hnsw")
        self._connection.execute(
            sql.SQL(f"CREATE INDEX IF NOT EXISTS {{}} ON {{}} USING hnsw ({column})").format(index, self._table)
        )
        return True

    def count(self) -> int:
        return int(self._run("SELECT count(*) FROM {table}").fetchone()[0])


def _storable(text: str) -> str:
    """PostgreSQL stores no NUL."""
    return text.replace("\0", "\ufffd")


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError:
        raise EngineUnavailableError(
            "an export to PostgreSQL needs psycopg: pip install 'streamer[postgres]'"
        ) from None
    return psycopg
