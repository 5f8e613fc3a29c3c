"""Plans keep within the budget, or say what would do."""

from __future__ import annotations

import pytest

from streamer.errors import BudgetTooSmallError
from streamer.memory import MIB, MemoryWatch, budget_bytes, plan_blocks, plan_extract, resident_bytes, total_bytes

NETWORK = {
    "engines": [(700 * MIB, 28 * MIB, 1)],
    "pixel_bytes": 150_528,
    "feature_bytes": 2048,
    "threads": 2,
    "max_batch": 32,
}


def test_more_memory_gives_larger_batches_and_never_more_than_the_budget() -> None:
    batches = []
    for budget in (820 * MIB, 1024 * MIB, 1536 * MIB, 4096 * MIB):
        plan = plan_extract(budget, **NETWORK)
        assert plan.expected_bytes <= budget
        assert plan.lookahead_images > plan.batch
        batches.append(plan.batch)
    assert batches == sorted(batches)
    assert batches[0] == 1 and batches[-1] == 32


def test_the_smallest_budget_that_would_do_is_named_and_does() -> None:
    with pytest.raises(BudgetTooSmallError, match=r"too small.*set memory\.budget=\d+MiB") as error:
        plan_extract(400 * MIB, **NETWORK)
    minimum = error.value.minimum_bytes
    assert plan_extract(minimum, **NETWORK).batch == 1
    with pytest.raises(BudgetTooSmallError):
        plan_extract(minimum - 16 * MIB, **NETWORK)


def test_the_fastest_engine_that_has_room_is_taken() -> None:
    network = {**NETWORK, "engines": [(400 * MIB, 2 * MIB, 2), (250 * MIB, 2 * MIB, 1), (130 * MIB, MIB, 1)]}
    taken = [plan_extract(budget * MIB, **network).engine for budget in (1024, 640, 496, 352, 256)]
    assert taken == [0, 0, 0, 1, 2]
    with pytest.raises(BudgetTooSmallError) as error:
        plan_extract(128 * MIB, **network)
    assert plan_extract(error.value.minimum_bytes, **network).engine == 2
    # However tight, each worker has an image:
    tight = next(plan for mib in range(480, 640) if (plan := plan_extract(mib * MIB, **network)).engine == 0)
    assert 2 <= tight.batch < 32


def test_threads_are_given_up_before_the_work_is() -> None:
    network = {**NETWORK, "threads": 16}
    assert plan_extract(900 * MIB, **network).decode_threads < 16


def test_decoding_processes_get_at_most_half_of_what_is_left() -> None:
    budget = 4096 * MIB
    assert plan_extract(budget, **NETWORK).decode_processes == 0
    assert plan_extract(budget, **NETWORK, processes=4, process_bytes=40 * MIB).decode_processes == 4
    many = plan_extract(budget, **NETWORK, processes=64, process_bytes=40 * MIB)
    assert 4 < many.decode_processes < 64
    assert many.expected_bytes <= 0.9 * budget


def test_blocks_hold_at_least_the_components() -> None:
    def cost(rows: int) -> int:
        return 48 * (rows + 128) * 25_088

    sizes = {"held_bytes": 150 * MIB, "row_bytes": 4 * 25_088, "minimum_rows": 128, "fit_bytes": cost}
    assert plan_blocks(600 * MIB, **sizes).rows == 128
    assert plan_blocks(768 * MIB, **sizes).rows == 256
    assert plan_blocks(8192 * MIB, **sizes).rows > 512
    with pytest.raises(BudgetTooSmallError, match=r"128 components.*lower reduce\.components") as error:
        plan_blocks(400 * MIB, **sizes)
    assert plan_blocks(error.value.minimum_bytes, **sizes).rows == 128
    assert plan_blocks(400 * MIB, **sizes, refuse=False).rows == 128


def test_auto_is_a_quarter_of_the_machine() -> None:
    assert budget_bytes(None) == total_bytes() // 4
    assert budget_bytes(123) == 123


def test_the_watch_sees_what_is_held_and_shrinks_the_lookahead() -> None:
    before = resident_bytes()
    with MemoryWatch(before + 64 * MIB, interval_seconds=0.01) as watch:
        roomy = MemoryWatch(before * 100)
        assert roomy.lookahead(20) == 20
        held = bytearray(128 * MIB)
        held[::4096] = b"x" * len(held[::4096])
        while watch.peak_bytes < before + 100 * MIB:
            pass
        assert watch.lookahead(20) == 1
        del held
    assert watch.peak_bytes >= before + 100 * MIB
