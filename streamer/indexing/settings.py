"""How to index, without a word on what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from streamer.memory import plan_blocks
from streamer.reduction import block_sizes, fit_bytes, usable_components

__all__ = ["IndexSettings"]


@dataclass(frozen=True)
class IndexSettings:
    """How to index.

    Attributes
    ----------
    kind : {"annoy", "ivf", "exact"}
    components, whiten : int, bool
        Of PCA.
    parts : int or None
        Annoy's trees, or the clusters of an inverted file; None chooses.
    effort : int or None
        What a search looks at: nodes of the forest, or clusters; None measures what it takes.
    seed : int
    candidates : int
        That a search will ask for.
    recall : float
        Recall@10 to reach.
    """

    kind: str
    components: int
    whiten: bool
    parts: int | None
    effort: int | None
    seed: int
    candidates: int
    recall: float

    def block_rows(
        self, budget: int, outputs: Mapping[str, tuple[int, ...]], held_bytes: int, n_rows: int | None = None
    ) -> int:
        """Rows that PCA can be fitted on at a time.

        Parameters
        ----------
        budget : int
            Bytes.
        outputs : mapping of str to tuple of int
            Shapes of the features; the first is indexed.
        held_bytes : int
            What the process will hold besides.
        n_rows : int, optional
            How many there are. Without it, nothing has been extracted yet, and a budget that is too small is refused.

        Raises
        ------
        BudgetTooSmallError
            If not even the smallest block fits and `n_rows` is not given.
        """
        length = int(np.prod(next(iter(outputs.values()))))
        components = usable_components(self.components, n_rows or 2**31, length)

        def largest(rows: int) -> int:
            """The largest block, as no small rest may be left over."""
            return max(block_sizes(n_rows, rows, components)) if n_rows else max(rows, 2 * components - 1)

        plan = plan_blocks(
            budget,
            held_bytes=held_bytes,
            row_bytes=4 * length,
            minimum_rows=components,
            fit_bytes=lambda rows: fit_bytes(largest(rows), components, length) + 8 * (largest(rows) - rows) * length,
            refuse=n_rows is None,
        )
        return plan.rows

    def parts_for(self, rows: int) -> int:
        """How many trees or clusters an index of so many rows gets."""
        if self.kind == "exact":
            return 0
        if self.kind == "annoy":
            return self.parts or _auto_trees(rows)
        return max(1, min(self.parts or _auto_clusters(rows), rows))


def _auto_trees(rows: int) -> int:
    """Ten for each power of ten above a hundred. With three times as many, a search looks at two thirds of the nodes
    for the same recall, in a file of twice the size."""
    return round(10 * (math.log10(max(rows, 1000)) - 2))


def _auto_clusters(rows: int) -> int:
    """Twice the square root: finding the nearest centres then costs about as much as looking through their clusters."""
    return max(1, round(2 * math.sqrt(rows)))
