"""Features in, hits out: candidates, their rows from the store, a ranking at full precision."""

from streamer.retrieval.among import nearest_among
from streamer.retrieval.approximate import nearest_approximate, newer_candidates
from streamer.retrieval.exact import nearest_exact
from streamer.retrieval.ranking import Neighbour, score_entries, to_hits
from streamer.retrieval.reduced import ReducedIndex

__all__ = [
    "Neighbour",
    "ReducedIndex",
    "nearest_among",
    "nearest_approximate",
    "nearest_exact",
    "newer_candidates",
    "score_entries",
    "to_hits",
]
