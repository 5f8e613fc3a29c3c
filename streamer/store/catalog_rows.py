"""The rows of the shards as the catalog knows them: each belongs to an image, or to an augmented copy of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from streamer.store.catalog import Catalog

__all__ = ["CatalogRows"]


class CatalogRows:
    """Questions about rows, asked of an open catalog.

    Parameters
    ----------
    catalog : Catalog
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def examples(self, block_size: int) -> Iterator[list[tuple[int, int, int, int, str, str, bytes]]]:
        """``(id, copy, shard, row, key, label, content)`` of the rows of live images, about so many at a time.

        By id and copy: `copy` is 0 for an image itself, and the number of an augmented copy for others. A block has
        all rows of its images. See `Catalog.places`.
        """
        images = max(1, block_size // (1 + self._catalog.spec.copies))
        some = "WITH some AS (SELECT id, key, label, content FROM images WHERE id > ? ORDER BY id LIMIT ?) "
        query = some + self._with_copies("some", "id, {copy}, shard, row, key, label, content")
        last = 0
        while found := self._catalog.execute(query, (last, images)):
            last = found[-1][0]
            yield found

    def locate(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Id, copy, shard and row of all rows of the images with these ids, by id and copy: shape (n, 4), int64."""
        found: list[tuple[int, int, int, int]] = []
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500].tolist()
            marks = ",".join("?" * len(part))
            some = f"WITH some AS (SELECT id, content FROM images WHERE id IN ({marks})) "  # noqa: S608
            found += self._catalog.execute(some + self._with_copies("some", "id, {copy}, shard, row"), part)
        return np.array(sorted(found), dtype=np.int64).reshape(-1, 4)

    def augmented_places(self, block_rows: int = 4096) -> Iterator[tuple[bytes, int, int, int]]:
        """``(content, copy, shard, row)`` of every live augmented row, sorted by content and copy.

        An augmented row belongs to the images of its content, whatever they are called; `Catalog.known` gives the
        content of each. It must be on the same side of a split as they are. Its features are read as those of any row,
        by `Store.rows`. Nothing is held between two blocks, and no reader keeps the write-ahead log from being emptied.

        Parameters
        ----------
        block_rows : int
            Rows that are asked for at a time.

        Yields
        ------
        content : bytes
            Digest of the source image's bytes, as in ``images``.
        copy : int
            From 1 on.
        shard, row : int
        """
        query = (
            "SELECT content, copy, shard, row FROM augmented WHERE (content, copy) > (?, ?) "
            "AND EXISTS (SELECT 1 FROM images WHERE images.content = augmented.content) "
            "ORDER BY content, copy LIMIT ?"
        )
        last = (b"", 0)
        while "augmented" in self.tables():
            found = self._catalog.execute(query, (*last, block_rows))
            yield from found
            if len(found) < block_rows:
                return
            last = found[-1][:2]

    def of_shard(self, shard: int) -> Iterator[tuple[int, bytes, int, str, str]]:
        """``(row, content, copy, key, label)`` of the live rows of one shard, by row, those of the same bytes by id.

        `copy` is 0 for an image itself, and the number of an augmented copy for others.
        """
        columns = {"features": "0", "augmented": "copy"}
        parts = [
            f"SELECT row, content, {columns[table]}, key, label, images.id FROM {table} JOIN images USING (content) "  # noqa: S608
            "WHERE shard = :shard"
            for table in self.tables()
        ]
        query = " UNION ALL ".join(parts) + " ORDER BY 1, 6"
        return (row[:5] for row in self._catalog.iterate(query, {"shard": shard}))

    def dead_in(self, shard: int) -> int:
        """Rows of a shard that no image uses."""
        ((rows,),) = self._catalog.execute("SELECT rows FROM shards WHERE id = ?", (shard,))
        return int(rows) - sum(self._live_rows(table, "shard = :shard", shard=shard) for table in self.tables())

    def augmented_count(self) -> int:
        """Number of live augmented rows."""
        return sum(self._live_rows(table) for table in self.tables() if table == "augmented")

    def _live_rows(self, table: str, condition: str = "1", **values: int) -> int:
        exists = f"EXISTS (SELECT 1 FROM images WHERE images.content = {table}.content)"  # noqa: S608 - no input
        query = f"SELECT count(*) FROM {table} WHERE {condition} AND {exists}"  # noqa: S608 - no input
        ((count,),) = self._catalog.execute(query, values)
        return int(count)

    def tables(self) -> list[str]:
        """The tables whose rows say what a row of a shard is. A catalog made before augmentation has only one."""
        return ["features", "augmented"] if self._catalog.has_column("augmented", "content") else ["features"]

    def _with_copies(self, images: str, columns: str) -> str:
        """A query for the rows of images and for those of their augmented copies, by the first two columns."""
        numbers = {"features": "0", "augmented": "copy"}
        parts = [
            f"SELECT {columns.format(copy=numbers[table])} FROM {images} JOIN {table} USING (content)"  # noqa: S608
            for table in self.tables()
        ]
        return " UNION ALL ".join(parts) + " ORDER BY 1, 2"
