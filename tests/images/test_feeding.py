"""When threads are found not to feed their consumer."""

from __future__ import annotations

import pytest

from streamer.images.feeding import Feeding


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def verdict(*, waited: float, worked: float, cores: float, of_cores: int = 16, windows: int = 1) -> str:
    """What is said after windows of these seconds, with that many cores busy all the time."""
    clock, cpu = Clock(), Clock()
    feeding = Feeding(of_cores, clock, cpu)
    for _ in range(windows):
        with feeding.waiting():
            clock.seconds += waited
        clock.seconds += worked
        cpu.seconds += cores * (waited + worked)
        said = feeding.verdict()
    return said


def test_a_starved_consumer_a_busy_interpreter_and_idle_cores_call_for_processes() -> None:
    said = verdict(waited=1.0, worked=1.5, cores=4)
    assert said == "40% of 2.5 s were waits for pictures, with 4.0 of 16 cores busy"


@pytest.mark.parametrize(
    ("why_not", "case"),
    [
        ("the window is not over", {"waited": 1.5, "worked": 0.4, "cores": 4}),
        ("the consumer was fed", {"waited": 0.5, "worked": 2.0, "cores": 4}),
        ("the disk is slow", {"waited": 2.0, "worked": 0.5, "cores": 0.5}),
        ("no core is idle", {"waited": 2.0, "worked": 0.5, "cores": 15}),
        ("two cores are busy with the network", {"waited": 2.0, "worked": 0.5, "cores": 1.9, "of_cores": 2}),
    ],
)
def test_threads_are_left_at_it_when(why_not: str, case: dict[str, float]) -> None:
    assert verdict(**case) == "", why_not  # type: ignore[arg-type]


def test_each_window_is_judged_by_itself() -> None:
    """A long wait at the start, while the network was loaded, must not count for ever."""
    clock, cpu = Clock(), Clock()
    feeding = Feeding(16, clock, cpu)
    with feeding.waiting():
        clock.seconds += 100
    assert feeding.verdict() == ""  # no core was busy
    clock.seconds += 2.5
    cpu.seconds += 10
    assert feeding.verdict() == ""  # and in this window nobody waited
    with feeding.waiting():
        clock.seconds += 2.5
    cpu.seconds += 10
    assert "100%" in feeding.verdict()
