"""A store handed to searchers elsewhere: what is new travels, under the name of its content; what points at it, last.

Below an address lie ``objects/<digest>``, never written twice, and ``CURRENT.json``, which says which of them make up
the store: its catalog, its shards, the published generation of its index. A push that ends half-way has changed nothing
for who pulls; the next goes on from there. Whoever pulls checks every byte against its digest, and moves the catalog
into place when all that it names is there.
"""

from streamer.publishing.layout import Transfer
from streamer.publishing.pull import pull
from streamer.publishing.push import push

__all__ = ["Transfer", "pull", "push"]
