"""One bound for all mapped files of the process."""

from __future__ import annotations

import pytest

from streamer import residency
from streamer.residency import Residency

MIB = 2**20


def test_all_let_go_together_when_the_bound_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "mapped_bytes", lambda: None)
    maps, handed_back = Residency(10 * MIB), []
    leave = maps.join(lambda: bool(handed_back.append("a")) or True)
    maps.join(lambda: bool(handed_back.append("b")) or True)
    maps.touched(10 * MIB)
    assert handed_back == []
    maps.touched(4 * MIB)
    assert handed_back == ["a", "b"]
    leave()
    maps.touched(14 * MIB)
    assert handed_back == ["a", "b", "b"]


def test_what_is_held_without_maps_of_ours_is_not_held_against_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries, and a map that is somebody else's: all let go after every few pages, for ever."""
    held, handed_back = [500 * MIB], []
    monkeypatch.setattr(residency, "mapped_bytes", lambda: held[0])
    maps = Residency(100 * MIB)

    def let_go() -> bool:
        handed_back.append(held[0])
        held[0] = 500 * MIB
        return True

    maps.join(let_go)
    for _ in range(100):
        held[0] += 8 * MIB
        maps.touched(8 * MIB)
    assert len(handed_back) == 1 + 99 // 13
    assert max(handed_back[1:]) <= 500 * MIB + 108 * MIB
