"""The semaphore that counts bytes."""

from __future__ import annotations

import random
import threading
import time

import pytest

from streamer.images.gate import ByteGate, GateClosedError


def test_never_more_than_the_capacity_is_held_and_all_get_through() -> None:
    gate = ByteGate(100)
    chance = random.Random(0)
    held, most, done = 0, 0, 0
    lock = threading.Lock()

    def work(sizes: list[int]) -> None:
        nonlocal held, most, done
        for n_bytes in sizes:
            with gate.holding(n_bytes):
                with lock:
                    held += n_bytes
                    most = max(most, held)
                time.sleep(0.0002)
                with lock:
                    held -= n_bytes
                    done += 1

    threads = [threading.Thread(target=work, args=([chance.randint(0, 100) for _ in range(40)],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert done == 320
    assert 50 < most <= 100
    assert gate.held_bytes == 0


def test_first_come_first_served_even_past_a_large_one() -> None:
    gate = ByteGate(10)
    order: list[str] = []

    def enter(name: str, n_bytes: int) -> threading.Thread:
        def work() -> None:
            with gate.holding(n_bytes):
                order.append(name)

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.05)
        return thread

    with gate.holding(6):
        threads = [enter("large", 9), enter("small", 1), enter("small too", 1)]
        assert order == []  # the small ones would fit, and wait their turn
    for thread in threads:
        thread.join(10)
    assert order[0] == "large"
    assert set(order) == {"large", "small", "small too"}


def test_bytes_are_given_back_when_the_body_raises() -> None:
    gate = ByteGate(10)
    with pytest.raises(RuntimeError), gate.holding(10):
        raise RuntimeError
    with gate.holding(10):
        assert gate.held_bytes == 10


def test_what_can_never_fit_is_an_error_and_no_deadlock() -> None:
    with pytest.raises(ValueError, match="never fit"), ByteGate(10).holding(11):
        pass


def test_closing_wakes_those_who_wait() -> None:
    gate = ByteGate(10)
    outcome: list[str] = []

    def work() -> None:
        try:
            with gate.holding(5):
                outcome.append("entered")
        except GateClosedError:
            outcome.append("turned away")

    with gate.holding(10):
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        gate.close()
        for thread in threads:
            thread.join(10)
    assert outcome == ["turned away"] * 3
    with pytest.raises(GateClosedError), gate.holding(1):
        pass
