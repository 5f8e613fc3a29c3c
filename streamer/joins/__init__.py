"""A store against itself or another: its k-nearest-neighbour graph, its near-duplicates, its clusters."""

from streamer.joins.clusters import Cluster, clusters
from streamer.joins.duplicates import Group, duplicates
from streamer.joins.knn import Graph, knn_graph

__all__ = ["Cluster", "Graph", "Group", "clusters", "duplicates", "knn_graph"]
