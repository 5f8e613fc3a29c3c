"""Runs that nobody watches: what they leave to be read in the morning, and how they end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer.config import Config, load_config
from streamer.errors import BudgetTooSmallError, StoreLockedError, StoreWriteError, StreamerError
from streamer.pipeline import run
from streamer.report import store_info
from streamer.runlog import keep_report
from streamer.searcher import Searcher
from streamer.store import Store
from streamer.upkeep import check
from tests.end_to_end.test_crash import wait_for_files
from tests.end_to_end.test_pipeline import features_by_key

Make = Callable[..., Config]
ROOT = Path(__file__).parents[2]
NETWORK = "backbone={name: vgg16_compact}"


def last_run(store: Path) -> dict[str, object]:
    with Store(store) as opened:
        return dict(store_info(opened)["last_run"])


def log_of(config: Config) -> str:
    assert config.log_file is not None
    return config.log_file.read_text(encoding="utf-8")


def test_the_log_tells_the_night(make_config: Make, pictures: Path) -> None:
    config = make_config(pictures, NETWORK)
    run(config)
    lines = log_of(config).splitlines()
    assert any("40 images: 40 to look at" in line for line in lines)
    assert 'done with exit code 0: {"images": {"seen": 40' in lines[-1]
    assert all(line[:4].isdigit() for line in lines)
    assert run(make_config(pictures, NETWORK, "run.log_file=off")).images["unchanged"] == 40
    assert log_of(config).splitlines() == lines


def test_the_log_is_set_aside_when_it_is_full_and_a_bad_place_is_no_failure(
    make_config: Make, pictures: Path, tmp_path: Path
) -> None:
    log = tmp_path / "here" / "a.log"
    log.parent.mkdir()
    log.write_text("x" * 2**20)
    config = make_config(pictures, NETWORK, f"run.log_file={log}")
    run(config, ["extract"])
    assert (log.parent / "a.log.1").stat().st_size == 2**20 and "40 images" in log.read_text()
    (tmp_path / "file").write_text("")
    run(make_config(pictures, NETWORK, f"run.log_file={tmp_path / 'file' / 'a.log'}"), ["extract"])


def test_failures_are_on_record_and_call_for_help(make_config: Make, pictures: Path, tmp_path: Path) -> None:
    calls = tmp_path / "calls.txt"
    call = f'run.on_failure=["{sys.executable}", "-c", "{_CALL}", "{calls}"]'
    config = make_config(pictures, NETWORK, call)
    run(config)
    assert not calls.exists() and last_run(config.store)["exit_code"] == 0
    with pytest.raises(BudgetTooSmallError):
        run(make_config(pictures, NETWORK, call, "memory.budget=16MiB"))
    refused = last_run(config.store)
    assert refused["exit_code"] == 12 and "memory.budget" in str(refused["message"])
    assert "failed with exit code 12: memory.budget" in log_of(config)
    with pytest.raises(StreamerError, match="does not exist"):
        run(make_config(tmp_path / "unmounted", NETWORK, call, f"source.folder={tmp_path / 'unmounted'}"))
    assert last_run(config.store)["exit_code"] == 1
    first, second = calls.read_text().splitlines()
    assert first.startswith("12 memory.budget") and str(config.store) in first
    assert second.startswith("1 ") and "does not exist" in second
    shell = make_config(pictures, NETWORK, "memory.budget=16MiB", f"run.on_failure=echo failed >> {calls}")
    with pytest.raises(BudgetTooSmallError):
        run(shell)
    assert calls.read_text().splitlines()[-1].strip() == "failed"
    with pytest.raises(BudgetTooSmallError):  # help that fails itself does not hide the failure
        run(make_config(pictures, NETWORK, "memory.budget=16MiB", "run.on_failure=exit 5"))


_CALL = (
    "import os, sys; e = os.environ; open(sys.argv[1], 'a').write("
    "' '.join([e['STREAMER_EXIT_CODE'], e['STREAMER_MESSAGE'], e['STREAMER_STORE']]) + chr(10))"
)


def test_a_time_limit_stops_extraction_and_the_next_nights_go_on(make_config: Make, pictures: Path) -> None:
    whole = make_config(pictures, NETWORK, "store=whole.store")
    run(whole)
    config = make_config(pictures, NETWORK, "run.max_minutes=0.0001")
    nights = 0
    while True:
        report = run(config)
        assert report.exit_code == 0
        nights += 1
        if not report.remaining:
            break
        assert report.generation == 0
        with Searcher(config.store) as searcher:  # no index yet: everything is looked at
            path = pictures / next(iter(features_by_key(config.store)))
            assert searcher.search([path])[0].hits[0].score > 0.9999
    assert nights >= 4
    assert features_by_key(config.store) == features_by_key(whole.store)
    assert run(make_config(pictures, NETWORK)).generation == 1


def test_work_that_would_fill_the_disk_is_not_started(
    make_config: Make, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 70 * 2**20})())
    config = make_config(pictures, "backbone.outputs=[{layer: block1_conv1}]", "backbone.input_size=224")
    with pytest.raises(StoreWriteError, match=r"extracting 40 images takes about 51[0-9] MB, and 73 MB are free") as no:
        run(config, ["extract"])
    assert no.value.exit_code == 1
    assert features_by_key(config.store) == {}


def test_old_reports_go(tmp_path: Path) -> None:
    for number in range(410):
        (tmp_path / f"20200101T000000.{number:06d}Z.json").write_text("{}")
    keep_report(tmp_path, {"images": 1})
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 400 and json.loads(kept[-1].read_text()) == {"images": 1}


@pytest.fixture
def started(make_config: Make, tmp_path: Path) -> Callable[[Path], subprocess.Popen[str]]:
    """Start a slow run (a commit after each batch) in a process of its own, and wait for its first commits."""

    def start(pictures: Path) -> subprocess.Popen[str]:
        make_config(pictures)
        sets = ["run.commit_seconds=0.001", "memory.budget=1GiB", "backbone.input_size=96"]
        command = [sys.executable, "-m", "streamer", "run", str(tmp_path / "config.yaml"), "--json", "--quiet"]
        process = subprocess.Popen(
            [*command, *(part for each in sets for part in ("--set", each))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for_files(process, tmp_path / "photos.store" / "features", 1)
        assert process.poll() is None, process.communicate()
        return process

    return start


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a program could answer")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_with_all_committed(
    started: Callable[[Path], subprocess.Popen[str]], pictures: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = started(pictures)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    answer = json.loads(out)
    assert answer["exit_code"] == 130 and "all of them are committed" in answer["error"]
    store = tmp_path / "photos.store"
    assert 0 < len(features_by_key(store)) < 40
    assert check(store).faults == []
    assert last_run(store)["exit_code"] == 130


def test_two_runs_at_once_and_the_death_of_one(
    started: Callable[[Path], subprocess.Popen[str]], make_config: Make, pictures: Path, tmp_path: Path
) -> None:
    process = started(pictures)
    config = make_config(pictures, "backbone.input_size=96")
    try:
        began = time.monotonic()
        with pytest.raises(StoreLockedError, match=rf"process {process.pid}, 'streamer run', since 20\d\d-") as locked:
            run(config)
        assert locked.value.exit_code == 11 and time.monotonic() - began < 10
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    committed = len(features_by_key(config.store))
    report = run(config)
    assert (report.images["added"], report.images["unchanged"]) == (40 - committed, committed)
    assert check(config.store).faults == []


@pytest.mark.parametrize("name", ["streamer-nightly.service", "streamer-nightly.timer"])
def test_the_systemd_units_are_read_as_they_are_meant(name: str) -> None:
    import configparser

    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(ROOT / "configs" / "nightly" / name)
    if name.endswith("service"):
        assert parser["Service"]["ExecStart"].endswith("streamer run %h/nightly.yaml")
        assert parser["Service"]["SuccessExitStatus"].split() == ["3", "130"]
    else:
        assert parser["Timer"]["OnCalendar"] == "*-*-* 03:00"


def test_the_windows_task_is_well_formed() -> None:
    text = (ROOT / "configs" / "nightly" / "streamer-nightly.xml").read_text(encoding="utf-8")
    task = ElementTree.fromstring(text.replace('encoding="UTF-16"', ""))
    space = {"t": "http://schemas.microsoft.com/windows/2004/02/mit/task"}
    assert task.findtext("t:Actions/t:Exec/t:Arguments", namespaces=space).startswith("run ")
    assert task.findtext("t:Settings/t:MultipleInstancesPolicy", namespaces=space) == "IgnoreNew"


def test_the_nightly_config_says_what_the_defaults_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOTOS", "/photos")
    config = load_config(ROOT / "configs" / "nightly" / "nightly.yaml")
    assert config.source.max_removed == 0.3 and config.run.max_minutes == 240
    with contextlib.suppress(KeyError):
        monkeypatch.delenv("PHOTOS")
    with pytest.raises(StreamerError, match="PHOTOS, which is not set"):
        load_config(ROOT / "configs" / "nightly" / "nightly.yaml")
