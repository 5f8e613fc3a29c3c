"""Make each change to the disk fail in turn: ``python -m tests.faults.torment KIND STRIDE FOLDER [OPERATION...]``.

For each operation: the n-th change fails, for n from 1 in steps of STRIDE until the operation ends without meeting a
fault. Each time in a process of its own, forked: starting Python anew would take most of the time. After each fault the
store is verified, the operation done again without one, and the outcome compared with that of an undisturbed run.

Prints one line of JSON for each operation. Run with the environment of `tests.faults.shim`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import traceback
from pathlib import Path

from streamer.errors import StreamerError
from tests.faults.operations import OPERATIONS, SECOND, Operation, contents, copy, night, verify_after, verify_between
from tests.faults.shim import Faults

REFUSED = 3
UNFORESEEN = 4


def attempt(operation: Operation, path: Path, number: int, kind: str, faults: Faults) -> tuple[int, int]:
    """Do the work in a child; returns how it ended (minus the signal that killed it) and the changes it made."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = UNFORESEEN
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            faults.arm(path, number, kind)
            try:
                operation.run(path)
                code = 0
            except (StreamerError, OSError) as error:
                code = REFUSED if str(error) else UNFORESEEN
            os.write(writing, str(faults.disarm()).encode())
        except BaseException:  # noqa: BLE001 - the child must never return into its parent's work
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as answers:
        count = answers.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, int(count or 0)


def finish(operation: Operation, path: Path) -> None:
    """What happens the next morning: the same again, and another night."""
    operation.run(path)
    night(path, SECOND)


def torment(name: str, kind: str, stride: int, folder: Path, faults: Faults) -> dict[str, object]:
    operation = OPERATIONS[name]
    before = folder / "before.store"
    operation.prepare(before)
    whole = copy(before, folder / "whole.store")
    operation.run(whole)
    right = {key: {row} for key, row in contents(whole).rows.items()}
    night(whole, SECOND)
    expected = contents(whole)
    if before.exists() and operation.sound_between:
        for key, row in contents(before).rows.items():
            right.setdefault(key, set()).add(row)  # what an image held before is right until it is replaced
    number, met, refused = 1, 0, 0
    while True:
        path = copy(before, folder / f"{number}.store")
        code, _ = attempt(operation, path, number, kind, faults)
        assert code in ((0, -9) if kind == "kill" else (0, REFUSED)), f"{name}, {kind} at {number}: ended with {code}"
        reached = code != 0
        try:
            verify_between(path, operation, right)
            finish(operation, path)
            verify_after(path, expected)
        except BaseException as error:
            raise AssertionError(f"{name}, {kind} at change {number} (ended with {code}): {error}") from error
        shutil.rmtree(path)
        if code == 0 and number > attempt_count(operation, before, folder, faults):
            break
        met += 1
        refused += reached
        number += stride
    return {"operation": name, "kind": kind, "changes": number, "tried": met, "refused": refused}


_COUNTS: dict[Path, int] = {}


def attempt_count(operation: Operation, before: Path, folder: Path, faults: Faults) -> int:
    """How many changes the undisturbed operation makes."""
    if folder not in _COUNTS:
        path = copy(before, folder / "counted.store")
        _, _COUNTS[folder] = attempt(operation, path, 0, "kill", faults)
        shutil.rmtree(path)
    return _COUNTS[folder]


def main(kind: str, stride: str, folder: str, *names: str) -> None:
    logging.disable(logging.CRITICAL)
    faults = Faults()
    for name in names or OPERATIONS:
        place = Path(folder) / kind / name.replace(" ", "-")
        place.mkdir(parents=True)
        sys.stdout.write(json.dumps(torment(name, kind, int(stride), place, faults)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
