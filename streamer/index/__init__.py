"""The search index: candidates by Annoy or an inverted file, or a scan of all; published in generations."""

from streamer.index.annoy_index import AnnoyIndex, annoy_installed, build_annoy, require_annoy
from streamer.index.arrays import MappedArray
from streamer.index.base import CandidateIndex
from streamer.index.check import fall_back, index_faults
from streamer.index.exact import Best, Metric, TopOfBlock, exact_candidates
from streamer.index.generation import Draft, Generation, Manifest, current_generation, published_number
from streamer.index.ivf import IvfIndex, Spool, write_ivf
from streamer.index.open import open_candidates
from streamer.index.rerank import cosines, distances

__all__ = [
    "AnnoyIndex",
    "Best",
    "CandidateIndex",
    "Draft",
    "Generation",
    "IvfIndex",
    "Manifest",
    "MappedArray",
    "Metric",
    "TopOfBlock",
    "Spool",
    "annoy_installed",
    "build_annoy",
    "cosines",
    "current_generation",
    "distances",
    "exact_candidates",
    "fall_back",
    "index_faults",
    "open_candidates",
    "published_number",
    "require_annoy",
    "write_ivf",
]
