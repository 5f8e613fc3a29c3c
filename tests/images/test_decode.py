"""Many files into pixels on threads: order, look-ahead, memory, and a clean end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamer.images import decode
from streamer.images.decode import decode_stream
from streamer.images.pixels import DecodeLimits
from streamer.records import Decoded, ImageRef, Rejected
from tests.images.hostile import EXPECTED_LIMITS, photo

LIMITS = DecodeLimits(**EXPECTED_LIMITS)


def refs_of(folder: Path, n_images: int) -> list[ImageRef]:
    """Pictures of very different sizes, every fifth of them damaged."""
    refs = []
    for number in range(n_images):
        path = folder / f"{number:03d}.png"
        photo(600 if number % 7 == 0 else 20, 400 if number % 7 == 0 else 10, number).save(path)
        if number % 5 == 4:
            path.write_bytes(path.read_bytes()[:60])
        refs.append(ImageRef(path.name, str(path), 0, 0, ""))
    return refs


def decode_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def stream(refs: Any, **options: Any) -> Iterator[Decoded | Rejected]:
    return decode_stream(refs, **{"size": (16, 16), "threads": 3, "lookahead_images": 8, "limits": LIMITS, **options})


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("lookahead", [1, 3, 100])
def test_order_is_kept_and_nothing_is_lost(tmp_path: Path, threads: int, lookahead: int) -> None:
    refs = refs_of(tmp_path, 40)
    refused = Rejected(ImageRef("x", "x", 0, 0, ""), "listed badly")
    results = list(stream([*refs[:10], refused, *refs[10:]], threads=threads, lookahead_images=lookahead))
    assert [result.ref for result in results] == [*refs[:10], refused.ref, *refs[10:]]
    assert results[10] is refused
    assert [isinstance(result, Rejected) for result in results if result is not refused] == [
        number % 5 == 4 for number in range(40)
    ]
    assert decode_threads() == []


def test_results_equal_those_of_one_thread(tmp_path: Path) -> None:
    refs = refs_of(tmp_path, 20)
    for left, right in zip(stream(refs, threads=1), stream(refs, threads=4), strict=True):
        if isinstance(left, Decoded):
            assert isinstance(right, Decoded)
            assert left.content == right.content
            assert (left.pixels == right.pixels).all()


def test_lookahead_is_bounded_for_a_slow_consumer_and_can_shrink(tmp_path: Path) -> None:
    refs = refs_of(tmp_path, 60)
    taken = 0
    lookahead = [10]

    def counted() -> Iterator[ImageRef]:
        nonlocal taken
        for ref in refs:
            taken += 1
            yield ref

    ahead = []
    for n_consumed, _result in enumerate(stream(counted(), lookahead_images=lambda: lookahead[-1]), 1):
        if n_consumed < 20:
            time.sleep(0.005)  # time for threads to run ahead, if they could
        ahead.append(taken - n_consumed)
        if n_consumed == 30:
            lookahead.append(2)
    assert max(ahead[:20]) == 9  # 10 with the one just handed over
    assert ahead[29] == 9
    assert ahead[40:50] == [1] * 10
    assert len(ahead) == 60


def test_a_lookahead_of_zero_still_moves(tmp_path: Path) -> None:
    assert len(list(stream(refs_of(tmp_path, 5), lookahead_images=lambda: 0))) == 5


def test_work_runs_on_threads_and_refs_are_advanced_by_the_consumer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded_by, advanced_by = set(), set()
    real = decode.decode_file

    def spy(*args: Any) -> Decoded | Rejected:
        decoded_by.add(threading.current_thread())
        return real(*args)

    def refs() -> Iterator[ImageRef]:
        for ref in refs_of(tmp_path, 10):
            advanced_by.add(threading.current_thread())
            yield ref

    monkeypatch.setattr(decode, "decode_file", spy)
    assert len(list(stream(refs()))) == 10
    assert advanced_by == {threading.current_thread()}
    assert decoded_by
    assert threading.current_thread() not in decoded_by


def test_closing_early_stops_the_threads_and_starts_no_other_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    gates = []

    def slow(ref: ImageRef, _size: Any, _limits: Any, gate: Any, _known: Any) -> Rejected:
        started.append(ref)
        gates.append(gate)
        with gate.holding(gate.capacity_bytes):  # one at a time: the others wait at the gate
            time.sleep(0.05)
        return Rejected(ref, "slow")

    monkeypatch.setattr(decode, "decode_file", slow)
    results = stream(refs_of(tmp_path, 30), threads=3, lookahead_images=30)
    next(results)
    before = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - before < 2
    assert len(started) <= 5  # those in work, and not all thirty
    assert decode_threads() == []
    assert gates[0].held_bytes == 0


def test_an_error_in_the_listing_reaches_the_consumer_and_stops_the_threads(tmp_path: Path) -> None:
    def refs() -> Iterator[ImageRef]:
        yield from refs_of(tmp_path, 3)
        raise RuntimeError("the catalog is gone")

    with pytest.raises(RuntimeError, match="the catalog is gone"):
        list(stream(refs()))
    assert decode_threads() == []


def test_a_programming_error_in_a_thread_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: Any) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(decode, "decode_file", broken)
    with pytest.raises(AssertionError, match="a bug"):
        list(stream(refs_of(tmp_path, 3)))
    assert decode_threads() == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_peak_memory_stays_within_the_bytes_given(tmp_path: Path) -> None:
    """Eight threads on 12 MB pictures: without the gate they held 100 MB; with it, what they were given."""
    picture = photo(2000, 1500)
    for number in range(12):
        picture.save(tmp_path / f"{number:02d}.png", compress_level=1)
    picture.resize((20, 20)).save(tmp_path / "small.png")
    measure = """
import sys
from pathlib import Path
from streamer.images.decode import decode_stream
from streamer.images.pixels import DecodeLimits
from streamer.images.sources import FolderSource

def kib(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))

refs = list(FolderSource(Path(sys.argv[1])))
limits = DecodeLimits(10**8, 10**8, int(sys.argv[2]))
options = dict(size=(224, 224), threads=8, lookahead_images=16, limits=limits)
list(decode_stream(refs[-1:] * 16, **options))
before = kib("VmRSS")
assert all(hasattr(result, "pixels") for result in decode_stream(refs, **options))
print((kib("VmHWM") - before) * 1024)
"""

    def peak_bytes(memory_bytes: int) -> int:
        command = [sys.executable, "-c", measure, str(tmp_path), str(memory_bytes)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    results_bytes = 16 * 224 * 224 * 3
    given_bytes = 45_000_000
    assert peak_bytes(given_bytes) < given_bytes + results_bytes + 8 * 2**20
    assert peak_bytes(10**9) > given_bytes + results_bytes + 8 * 2**20  # so the figure above is the gate's doing
