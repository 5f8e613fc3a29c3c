"""Decoding in processes: as on threads to the byte, and nothing is lost or left behind, whoever is killed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from streamer.images import FolderSource, feeding
from streamer.images.decode import decode_stream
from streamer.images.decode_pool import DecodeProcesses, DecodeTimeoutError, _Deadline
from streamer.images.gate import ByteGate, GateClosedError
from streamer.images.pixels import DecodeLimits, decode_file
from streamer.records import Decoded, ImageRef, Rejected
from tests.images.hostile import EXPECTED_LIMITS, photo, write_hostile_files

LIMITS = DecodeLimits(**EXPECTED_LIMITS)
SIZE = (16, 24)

signals_needed = pytest.mark.skipif(sys.platform == "win32", reason="stops a process in the middle of its work")


def workers() -> list[psutil.Process]:
    """The worker processes of this process that are alive."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, or one that was reaped since it was listed
            if any("decode_worker" in part for part in child.cmdline()):
                found.append(child)
    return found


def the_worker() -> psutil.Process:
    """The only worker process; one that was started just now has no command line for a moment."""
    while len(found := workers()) != 1:
        time.sleep(0.01)
    return found[0]


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    before = set(psutil.Process().children())
    yield
    assert set(psutil.Process().children()) <= before  # no zombies either
    assert [thread for thread in threading.enumerate() if thread.name.startswith("decode")] == []


@pytest.fixture(scope="module")
def refs(tmp_path_factory: pytest.TempPathFactory) -> list[ImageRef]:
    """Sixty pictures of different sizes."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(60):
        photo(200 if number % 7 == 0 else 30, 20 + number, number).save(folder / f"{number:03d}.png")
    return [ref for ref in FolderSource(folder) if isinstance(ref, ImageRef)]


def stream(refs: Any, **options: Any) -> Iterator[Decoded | Rejected]:
    options = {"size": SIZE, "threads": 0, "processes": 2, "lookahead_images": 8, "limits": LIMITS, **options}
    return decode_stream(refs, **options)


def assert_same(found: list[Decoded | Rejected], expected: list[Decoded | Rejected]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(other) and one.ref == other.ref
        if isinstance(one, Decoded) and isinstance(other, Decoded):
            assert one.content == other.content
            assert one.pixels.shape == other.pixels.shape and (one.pixels == other.pixels).all()
        elif isinstance(one, Rejected) and isinstance(other, Rejected):
            assert one.reason == other.reason


def on_threads(refs: Any, **options: Any) -> list[Decoded | Rejected]:
    return list(stream(refs, **{"threads": 2, "processes": 0, **options}))


def test_hostile_files_end_as_they_do_on_threads(tmp_path: Path) -> None:
    write_hostile_files(tmp_path / "hostile")
    listed = list(FolderSource(tmp_path / "hostile"))
    found = list(stream(listed, processes=3))
    assert_same(found, on_threads(listed))
    assert 10 < sum(isinstance(result, Rejected) for result in found) < len(found) - 10


@pytest.mark.parametrize("lookahead", [1, 5, 100])
def test_order_is_kept_and_pixels_are_the_callers_to_keep(refs: list[ImageRef], lookahead: int) -> None:
    refused = Rejected(ImageRef("x", "x", 0, 0, ""), "listed badly")
    mixed = [*refs[:10], refused, *refs[10:]]
    assert_same(list(stream(mixed, lookahead_images=lookahead)), on_threads(mixed))


def test_lookahead_is_bounded_for_a_slow_consumer(refs: list[ImageRef]) -> None:
    taken = 0

    def counted() -> Iterator[ImageRef]:
        nonlocal taken
        for ref in refs:
            taken += 1
            yield ref

    ahead = []
    for n_consumed, _result in enumerate(stream(counted(), lookahead_images=lambda: 6), 1):
        time.sleep(0.002)
        ahead.append(taken - n_consumed)
    assert max(ahead) == 5  # 6 with the one just handed over
    assert len(ahead) == len(refs)


def test_all_processes_together_keep_within_the_bytes_and_one_picture_may_take_them_all(tmp_path: Path) -> None:
    photo(1000, 700).save(tmp_path / "0.png")  # takes 6 MB: more than an even share, less than the whole
    photo(30, 20).save(tmp_path / "1.png")
    photo(1000, 710).save(tmp_path / "2.png")
    listed = [ref for ref in FolderSource(tmp_path) if isinstance(ref, ImageRef)]
    limits = DecodeLimits(10**8, 10**8, 6_500_000)
    held = []

    class Watched(ByteGate):
        def _enter(self, n_bytes: int) -> None:
            super()._enter(n_bytes)
            held.append((n_bytes, self.held_bytes))

    gate = Watched(limits.memory_bytes)
    pool = DecodeProcesses(3, SIZE, limits, gate)
    try:
        with ThreadPoolExecutor(3) as threads:
            results = list(threads.map(pool.decode, listed * 3))
    finally:
        pool.close()
    assert_same(results, [decode_file(ref, SIZE, limits) for ref in listed * 3])
    assert all(isinstance(result, Decoded) for result in results)
    assert sum(n_bytes > 3_000_000 for n_bytes, _ in held) == 6
    assert max(total for _, total in held) <= limits.memory_bytes
    assert gate.held_bytes == 0


def test_no_more_processes_are_started_than_there_is_work_for(refs: list[ImageRef]) -> None:
    results = stream(refs, processes=8, lookahead_images=1)
    for _ in range(5):
        next(results)
    assert len(workers()) == 1
    results.close()  # type: ignore[attr-defined]


def test_neither_threads_nor_processes() -> None:
    with pytest.raises(ValueError, match="0 threads and 0 processes"):
        next(stream([], processes=0))


def test_killed_workers_cost_no_image(refs: list[ImageRef], caplog: pytest.LogCaptureFixture) -> None:
    """Each is replaced until too many were killed; then the calling threads decode."""
    found = []
    killed = 0
    for result in stream(refs, processes=2):
        found.append(result)
        for worker in workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
                killed += 1
    assert_same(found, on_threads(refs))
    assert killed >= 5
    assert "is read again" in caplog.text


@pytest.fixture
def pool() -> Iterator[DecodeProcesses]:
    pool = DecodeProcesses(1, SIZE, LIMITS, ByteGate(LIMITS.memory_bytes))
    yield pool
    pool.close()


def _while_in_work(pool: DecodeProcesses, ref: ImageRef, *numbers: int) -> Decoded | Rejected:
    """Send signals to a worker that has a file in work."""
    pool.decode(ref)
    (worker,) = workers()
    worker.suspend()
    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(pool.decode, ref)
        time.sleep(0.1)
        assert not result.done()
        for number in numbers:
            worker.send_signal(number)
        return result.result(30)


@signals_needed
def test_the_file_of_a_killed_worker_is_decoded_here(pool: DecodeProcesses, refs: list[ImageRef]) -> None:
    result = _while_in_work(pool, refs[0], signal.SIGKILL)
    assert_same([result], [decode_file(refs[0], SIZE, LIMITS)])
    assert isinstance(pool.decode(refs[1]), Decoded)
    assert len(workers()) == 1  # a new one


@signals_needed
def test_a_file_that_crashes_a_worker_is_refused(pool: DecodeProcesses, refs: list[ImageRef]) -> None:
    """Decoded here, it would take the whole run with it."""
    result = _while_in_work(pool, refs[0], signal.SIGSEGV, signal.SIGCONT)
    assert result == Rejected(refs[0], "decoding it crashed the process (SIGSEGV)")
    assert isinstance(pool.decode(refs[1]), Decoded)


@signals_needed
def test_interrupts_are_for_the_parent(pool: DecodeProcesses, refs: list[ImageRef]) -> None:
    result = _while_in_work(pool, refs[0], signal.SIGINT, signal.SIGCONT)
    assert isinstance(result, Decoded)
    (worker,) = workers()
    assert os.getpgid(worker.pid) != os.getpgid(0)  # a terminal's Ctrl-C goes to the parent's group


@signals_needed
def test_closing_does_not_wait_for_a_worker(refs: list[ImageRef]) -> None:
    results = stream(refs, processes=2)
    next(results)
    for worker in workers():
        worker.suspend()
    before = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - before < 2


def test_after_closing_nothing_is_decoded(refs: list[ImageRef]) -> None:
    pool = DecodeProcesses(1, SIZE, LIMITS, ByteGate(LIMITS.memory_bytes))
    pool.decode(refs[0])
    pool.close()
    with pytest.raises(GateClosedError):
        pool.decode(refs[1])


def test_an_error_in_the_listing_ends_the_processes(refs: list[ImageRef]) -> None:
    def listing() -> Iterator[ImageRef]:
        yield from refs[:5]
        raise RuntimeError("the catalog is gone")

    with pytest.raises(RuntimeError, match="the catalog is gone"):
        list(stream(listing()))


def test_a_programming_error_in_a_process_is_not_swallowed(refs: list[ImageRef]) -> None:
    broken: Any = ImageRef("x", 1.5, 0, 0, "")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        list(stream([*refs[:3], broken]))


def test_memory_is_shared_through_a_file_where_the_system_has_nothing_better(
    refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    results = stream(refs, processes=1)
    found = [next(results)]
    assert len(workers()) == 1
    assert_same([*found, *results], on_threads(refs))


def test_where_no_process_can_be_started_threads_go_on(
    refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert_same(list(stream(refs)), on_threads(refs))
    assert caplog.text.count("no process can be started") == 1


def test_where_workers_cannot_begin_threads_go_on(refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert_same(list(stream(refs)), on_threads(refs))


def test_decoding_moves_in_the_middle_of_a_stream(
    refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {"WINDOW_SECONDS": 0.01, "STARVED_SHARE": -1, "BUSY_CORES": 0, "IDLE_SHARE": -1e9}.items():
        monkeypatch.setattr(feeding, name, value)
    caplog.set_level(logging.INFO)
    found = []
    n_workers = []
    for result in stream(refs, threads=2, processes=2):
        found.append(result)
        n_workers.append(len(workers()))
    assert n_workers[0] == 0 and max(n_workers) in (1, 2)
    assert_same(found, on_threads(refs))
    assert caplog.text.count("decoding moves from 2 threads to 2 processes: ") == 1


def test_it_stays_on_threads_where_no_processes_are_allowed(
    refs: list[ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "WINDOW_SECONDS", 0)
    for _result in stream(refs, threads=2, processes=0):
        assert workers() == []


_STREAM = """
import itertools, sys
from streamer.images.decode import decode_stream
from streamer.images.pixels import DecodeLimits
from streamer.records import ImageRef

refs = (ImageRef(str(number), sys.argv[1], 0, 0, "") for number in itertools.count())
limits = DecodeLimits(10**8, 10**8, 10**8)
for number, _ in enumerate(decode_stream(refs, size=(9, 9), threads=0, lookahead_images=8, limits=limits, processes=2)):
    if number == 50:
        print("running", flush=True)
"""


@signals_needed
def test_workers_die_with_their_parent_and_no_shared_memory_is_left(refs: list[ImageRef]) -> None:
    """Not guarded by ``__name__ == "__main__"`` either: the script must not be run again by each worker."""
    shm = Path("/dev/shm")
    before = set(shm.iterdir()) if shm.is_dir() else set()
    command = [sys.executable, "-c", _STREAM, refs[0].path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stderr is not None
        assert parent.stdout.readline() == "running\n"
        children = psutil.Process(parent.pid).children()
        assert len(children) == 2
        parent.kill()
        gone, alive = psutil.wait_procs(children, timeout=5)
        assert len(gone) == 2 and alive == []
        assert parent.stdout.read() == "" and parent.stderr.read() == ""
    if shm.is_dir():
        assert set(shm.iterdir()) <= before


def test_a_worker_imports_no_more_than_decoding_needs() -> None:
    code = "import streamer.images.decode_worker, sys; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "PIL.Image" in modules
    heavy = {"tensorflow", "keras", "h5py", "sklearn", "ncnn", "pydantic", "click", "multiprocessing"}
    assert heavy.isdisjoint(modules)


def test_a_file_that_takes_too_long_is_given_up_however_often(refs: list[ImageRef]) -> None:
    with contextlib.closing(DecodeProcesses(1, SIZE, LIMITS, ByteGate(LIMITS.memory_bytes), 60.0)) as pool:
        for _ in range(6):  # more workers than would be replaced of those that the system ends
            pool.start()
            worker = the_worker()
            worker.suspend()  # it will not answer, however long it is given
            pool._timeout_seconds = 0.05
            with pytest.raises(DecodeTimeoutError):
                pool.decode(refs[0])
            pool._timeout_seconds = 60.0
        assert_same([pool.decode(refs[1])], on_threads(refs[1:2]))
        (asked,) = pool._workers
        ask = asked.ask

        def killed_and_asked(request: Any, timeout_seconds: float | None = None) -> Any:
            asked.kill()
            return ask(request, timeout_seconds)

        asked.ask = killed_and_asked  # type: ignore[method-assign]
        refused = pool.decode(refs[2])  # and not decoded in this process
        assert isinstance(refused, Rejected) and not refused.lasting
        assert_same([pool.decode(refs[2])], on_threads(refs[2:3]))


def test_a_worker_that_ended_while_it_was_idle_is_replaced_and_no_file_refused(refs: list[ImageRef]) -> None:
    with contextlib.closing(DecodeProcesses(1, SIZE, LIMITS, ByteGate(LIMITS.memory_bytes), 60.0)) as pool:
        pool.start()
        worker = the_worker()
        worker.kill()
        psutil.wait_procs([worker], timeout=10)
        assert_same([pool.decode(refs[2])], on_threads(refs[2:3]))


def test_a_deadline_is_met_or_passes_and_never_both() -> None:
    """A timer that goes off while the answer is taken must not end a worker that is handed on."""
    ended: list[bool] = []
    met = _Deadline(60.0, lambda: ended.append(True))
    assert met.meet()
    met._pass()  # as a timer does that was past cancelling
    assert not ended and not met.passed
    passed = _Deadline(60.0, lambda: ended.append(True))
    passed._pass()
    assert ended == [True] and not passed.meet()


def test_a_file_that_is_asked_for_twice_has_one_time_limit(refs: list[ImageRef], tmp_path: Path) -> None:
    photo(1000, 700).save(tmp_path / "large.png")  # takes more than an even share
    limits = DecodeLimits(10**8, 10**8, 6_500_000)
    given = []
    with contextlib.closing(DecodeProcesses(2, SIZE, limits, ByteGate(limits.memory_bytes), 60.0)) as pool:
        worker = pool._started()
        assert worker is not None
        ask = worker.ask

        def slow(request: Any, timeout_seconds: float | None = None) -> Any:
            given.append(timeout_seconds)
            time.sleep(0.2)
            return ask(request, timeout_seconds)

        worker.ask = slow  # type: ignore[method-assign]
        pool._idle.put(worker)
        (ref,) = [ref for ref in FolderSource(tmp_path) if isinstance(ref, ImageRef)]
        assert isinstance(pool.decode(ref), Decoded)
    assert len(given) == 2 and given[0] == 60.0 and given[1] <= 59.8
