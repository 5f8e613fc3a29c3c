"""The search index: candidates by Annoy or a full scan, ranking by full-precision cosine, published in generations."""

from streamer.index.annoy_index import AnnoyIndex, annoy_installed, build_annoy, require_annoy
from streamer.index.check import fall_back, index_faults
from streamer.index.exact import exact_candidates
from streamer.index.generation import Draft, Generation, Manifest, current_generation, published_number
from streamer.index.rerank import best, cosines

__all__ = [
    "AnnoyIndex",
    "Draft",
    "Generation",
    "Manifest",
    "annoy_installed",
    "best",
    "build_annoy",
    "cosines",
    "current_generation",
    "exact_candidates",
    "fall_back",
    "index_faults",
    "published_number",
    "require_annoy",
]
