"""The long version of the crash tests: ``python scripts/torture.py [--minutes 30]``.

1. Every change to the disk that each writing operation makes (a first night, a second one, compact, rebuild, repair)
   fails in turn, by death, by a full disk and by an I/O error; see `tests.faults.torment`. About ten minutes. So do
   those of exports, and every 8th of an import; see `tests.faults.exchange`. About three minutes.
2. Random histories of a library, more and longer than in the tests; see `tests/end_to_end/test_histories.py`.
3. Whole ``streamer run`` processes over drawn pictures are killed, or meet a full or failing disk, at random changes,
   again and again over one store, until the time is up; each is followed by a check, and every tenth by a comparison
   with an undisturbed store.

Linux, with a C compiler. Prints what was done; ends with an exit code above 0 at the first thing that is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from streamer.images.drawn import draw_pictures  # noqa: E402
from streamer.store import Store  # noqa: E402
from streamer.upkeep import check  # noqa: E402
from tests.faults import shim  # noqa: E402

# Changes that a whole run over the pictures makes are about 200; later ones are never reached, and the run ends well.
_MOST_CHANGES = 260


def torment(library: Path, folder: Path) -> None:
    """Part 1."""
    for kind in shim.KINDS:
        command = [sys.executable, "-m", "tests.faults.torment", kind, "1", str(folder)]
        subprocess.run(command, cwd=ROOT, env=shim.environment(library), check=True, stderr=subprocess.STDOUT)
    exchanged = folder / "exchange"
    exchanged.mkdir()
    command = [sys.executable, "-m", "tests.faults.exchange", "1", str(exchanged)]
    subprocess.run(command, cwd=ROOT, env=shim.environment(library), check=True, stderr=subprocess.STDOUT)


def histories(count: int) -> None:
    """Part 2."""
    command = [sys.executable, "-m", "pytest", "-q", "--timeout", "7200", "tests/end_to_end/test_histories.py"]
    environment = {**os.environ, "HISTORIES": str(count), "NIGHTS": "20"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def features(store: Path) -> dict[str, bytes]:
    """Key -> features."""
    with Store(store) as opened:
        found = {}
        for ids, rows in opened.blocks(opened.spec.indexed, 64):
            entries = opened.entries(ids.tolist())
            found.update({entries[n].key: row.tobytes() for n, row in zip(ids.tolist(), rows, strict=True)})
        return found


def streamer_run(config: Path, **environment: str) -> int:
    """One run in a process of its own; returns its exit code."""
    command = [sys.executable, "-m", "streamer", "run", str(config), "--quiet", "--set", "run.commit_seconds=0.05"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1, 3, -9) or "Traceback" in done.stderr or "unforeseen" in done.stderr:
        raise SystemExit(f"a run ended with {done.returncode}:\n{done.stderr}")
    return done.returncode


def whole_runs(library: Path, folder: Path, until: float, seed: int) -> None:
    """Part 3."""
    chance = random.Random(seed)  # noqa: S311 - no secrets
    pictures, spare, store, config = (folder / name for name in ("pictures", "spare", "a.store", "a.yaml"))
    draw_pictures(pictures, classes=4, per_class=15, side=64, seed=seed)
    spare.mkdir()
    settings = f"store: {store}\nsource: {{folder: {pictures}, max_removed: 1}}\nbackbone: {{name: vgg16_compact}}\n"
    config.write_text(settings + "index: {rebuild_fraction: 0.05}\n")
    outcomes: Counter[str] = Counter()
    rounds = 0
    while time.monotonic() < until:
        rounds += 1
        for path in chance.sample(sorted(pictures.rglob("*.jpg")), 6):
            path.rename(spare / f"{rounds}-{path.name}")
        for path in chance.sample(sorted(spare.iterdir()), min(len(list(spare.iterdir())), chance.randrange(8))):
            path.rename(pictures / path.name)
        if len(list(pictures.rglob("*.jpg"))) < 20:
            for path in sorted(spare.iterdir()):
                path.rename(pictures / path.name)
        kind = chance.choice(list(shim.KINDS))
        number = chance.randrange(1, _MOST_CHANGES)
        code = streamer_run(
            config,
            LD_PRELOAD=str(library),
            FAULTS_FOLDER=str(store),
            FAULTS_AT=str(number),
            FAULTS_KIND=str(shim.KINDS[kind]),
        )
        outcomes[f"{kind}, exit code {code}"] += 1
        if (store / "catalog.sqlite").exists():
            faults = check(store).faults
            if faults:
                raise SystemExit(f"round {rounds}, {kind} at change {number}: {faults}")
        if rounds % 10 == 0:
            assert streamer_run(config) == 0
            fresh = folder / "fresh.store"
            other = folder / "fresh.yaml"
            other.write_text(config.read_text().replace(str(store), str(fresh)))
            assert streamer_run(other) == 0
            if features(store) != features(fresh):
                raise SystemExit(f"round {rounds}: the store differs from one that was made undisturbed")
            shutil.rmtree(fresh)
    print(json.dumps({"whole runs": rounds, **dict(sorted(outcomes.items()))}), flush=True)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15, help="for part 3 (default 15)")
    parser.add_argument("--histories", type=int, default=30, help="for part 2, of 20 nights each (default 30)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 2, 3], choices=[1, 2, 3])
    arguments = parser.parse_args()
    if shim.missing():
        raise SystemExit(shim.missing())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        library = shim.build(folder)
        if 1 in arguments.parts:
            torment(library, folder / "torment")
        if 2 in arguments.parts:
            histories(arguments.histories)
        if 3 in arguments.parts:
            (folder / "runs").mkdir()
            whole_runs(library, folder / "runs", time.monotonic() + 60 * arguments.minutes, arguments.seed)


if __name__ == "__main__":
    main()
