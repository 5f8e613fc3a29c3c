"""The parts that work without HTTP: batches, jobs, thumbnails on the disk."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from streamer.serving.batching import BatchThread, OverloadedError
from streamer.serving.jobs import Jobs
from streamer.store import ThumbnailCache, thumbnail_faults


def test_questions_that_wait_together_are_answered_together() -> None:
    gate, begun, batches = threading.Event(), threading.Event(), []

    def answer(questions: Sequence[int]) -> list[int | Exception]:
        begun.set()
        assert gate.wait(10)
        batches.append(list(questions))
        return [ValueError("odd") if number % 2 else 10 * number for number in questions]

    thread: BatchThread[int, int] = BatchThread("test", answer, most_together=3, most_waiting=5)
    first = thread.ask(0)
    assert begun.wait(10)
    others = [thread.ask(number) for number in range(1, 6)]
    with pytest.raises(OverloadedError):
        thread.ask(6)
    others[3].cancel()
    gate.set()
    assert first.result(10) == 0
    assert [others[1].result(10), others[4].exception(10).__class__] == [20, ValueError]
    thread.close()
    assert batches == [[0], [1, 2, 3], [5]]


def test_an_answer_that_fails_is_told_to_all_who_asked_and_to_no_other() -> None:
    thread: BatchThread[int, float] = BatchThread(
        "test", lambda questions: [1 / number for number in questions], most_together=1, most_waiting=5
    )
    failed, sound = thread.ask(0), thread.ask(4)
    assert isinstance(failed.exception(10), ZeroDivisionError) and sound.result(10) == 0.25
    thread.close()


def test_jobs_are_done_one_at_a_time_and_remembered() -> None:
    jobs: Jobs[int] = Jobs("test", most_kept=2)
    gate = threading.Event()
    calls = []

    def work(number: int) -> Callable[[Callable[[], bool]], int]:
        def run(should_stop: Callable[[], bool]) -> int:
            calls.append(number)
            while not gate.wait(0.01):
                assert not should_stop()
            return 1 // number

        return run

    def settled(key: int) -> Future[int]:
        job = jobs.result(key, work(key))
        assert job is not None
        job.exception(10)
        return job

    first = jobs.result(1, work(1))
    assert jobs.result(1, work(1)) is first and jobs.result(2, work(2)) is None
    gate.set()
    assert settled(1).result() == 1 and settled(2).result() == 0 and settled(1) is first
    assert isinstance(settled(0).exception(), ZeroDivisionError)  # 2, used the longest ago, is forgotten
    settled(0)  # the failure is handed out once more, and forgotten
    settled(0)
    assert calls == [1, 2, 0, 0]
    gate.clear()
    running = jobs.result(7, work(7))
    while 7 not in calls:
        time.sleep(0.01)
    closing = threading.Thread(target=jobs.close)
    closing.start()
    assert running is not None and isinstance(running.exception(10), AssertionError)  # it was told to stop
    closing.join()


JPEG = b"\xff\xd8" + bytes(996) + b"\xff\xd9"


def content(number: int) -> bytes:
    return number.to_bytes(16, "big")


def held(folder: Path) -> set[str]:
    return {path.stem for path in folder.rglob("*.jpg")}


def test_thumbnails_keep_within_their_bound_and_the_least_asked_for_go(tmp_path: Path) -> None:
    cache = ThumbnailCache(tmp_path / "thumbnails", bound_bytes=10_500)
    for number in range(10):
        cache.put(content(number), JPEG)
        path = next((tmp_path / "thumbnails").rglob(content(number).hex() + ".jpg"))
        os.utime(path, (time.time() - 90_000 + number,) * 2)
    assert cache.get(content(0)) == JPEG  # which makes it the newest
    cache.put(content(10), JPEG)
    kept = held(tmp_path / "thumbnails")
    assert content(0).hex() in kept and content(10).hex() in kept
    assert kept == {content(number).hex() for number in (0, *range(3, 11))}
    reopened = ThumbnailCache(tmp_path / "thumbnails", bound_bytes=5000)
    reopened.put(content(11), JPEG)  # it counts what it finds
    assert len(held(tmp_path / "thumbnails")) == 4


def test_damaged_thumbnails_are_faults_and_are_made_anew(tmp_path: Path) -> None:
    cache = ThumbnailCache(tmp_path, 10**6)
    cache.put(content(1), JPEG)
    cache.put(content(2), JPEG)
    damaged = next(tmp_path.rglob(content(2).hex() + ".jpg"))
    damaged.write_bytes(JPEG[:500])
    assert cache.get(content(2)) is None and cache.get(content(1)) == JPEG and cache.get(content(3)) is None
    assert list(thumbnail_faults(tmp_path)) == [(damaged, "is no whole JPEG")]
    damaged.write_bytes(b"")
    assert len(list(thumbnail_faults(tmp_path))) == 1
    cache.put(content(2), JPEG)
    assert cache.get(content(2)) == JPEG and not list(thumbnail_faults(tmp_path))
    half = damaged.with_name(damaged.name + ".partial")  # as a crash leaves it
    half.write_bytes(JPEG[:10])
    ThumbnailCache(tmp_path, 10**6).put(content(4), JPEG)
    assert not half.exists()


def test_where_the_disk_takes_nothing_a_bounded_few_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "thumbnails").write_text("a file in the place of the folder")
    monkeypatch.setattr("streamer.store.thumbnails._IN_MEMORY_BYTES", 3500)
    cache = ThumbnailCache(tmp_path / "thumbnails", 10**6)
    for number in range(6):
        cache.put(content(number), JPEG)
    assert [cache.get(content(number)) is not None for number in range(6)] == [False, False, False, True, True, True]
    assert caplog.text.count("kept in memory") == 1
