"""A listing in any order becomes one that is sorted by key."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.records import ImageRef, Rejected
from streamer.store import sorted_by_key

_REFS = st.builds(
    ImageRef, st.text(min_size=1, max_size=3), st.text(max_size=3), st.integers(0, 9), st.just(1), st.just("l")
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(_REFS, st.builds(Rejected, _REFS, st.just("why"), st.booleans()))))
def test_nothing_is_lost_and_no_key_is_taken_twice(listing: list[ImageRef | Rejected]) -> None:
    found = list(sorted_by_key(listing))
    keys = [each.key if isinstance(each, ImageRef) else each.ref.key for each in found]
    assert keys == sorted(keys)
    first: dict[str, ImageRef] = {}
    for each in listing:
        if isinstance(each, ImageRef):
            first.setdefault(each.key, each)
    assert [each for each in found if isinstance(each, ImageRef)] == [first[key] for key in sorted(first)]
    refused = [each for each in found if isinstance(each, Rejected)]
    assert all(not each.lasting for each in refused if each.ref.key in first)  # or it would take the first one away
    listed = {(ref.key, ref.path) for ref in (each if isinstance(each, ImageRef) else each.ref for each in listing)}
    assert {
        (ref.key, ref.path) for ref in (each if isinstance(each, ImageRef) else each.ref for each in found)
    } == listed


def test_more_than_fit_into_a_block() -> None:
    refs = [ImageRef(f"{number:05d}", "p", number, number, "") for number in range(2_500)]
    shuffled = random.Random(0).sample(refs, len(refs))
    assert list(sorted_by_key(shuffled)) == refs
