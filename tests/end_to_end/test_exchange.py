"""Every later stage works on imported features, and a file larger than the memory goes in and out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from streamer.cli import main
from streamer.store import Store
from tests.conftest import publish_index, write_features

MIB = 2**20


@pytest.fixture
def computed(tmp_path: Path) -> Path:
    """90 vectors around three centres, as a folder with ``x.npy`` and ``keys.csv``; two are equal, two not finite."""
    random = np.random.default_rng(0)
    rows = np.repeat(4 * random.normal(size=(3, 24)), 30, axis=0) + random.normal(size=(90, 24))
    rows[1], rows[40, 3], rows[70, 0] = rows[0], np.nan, np.inf
    np.save(tmp_path / "x.npy", rows)
    lines = [f"c{number // 30}/{number:02d}.jpg,c{number // 30}\n" for number in range(90)]
    (tmp_path / "keys.csv").write_text("key,label\n" + "".join(lines), encoding="utf-8")
    return tmp_path


def streamer(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    """Run a command with ``--json``; gives the exit code and the object."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main([*map(str, arguments), "--json"])
    return int(exit_.value.code or 0), json.loads(capsys.readouterr().out)


def test_every_later_stage_works_on_imported_features(
    capsys: pytest.CaptureFixture[str], computed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = computed / "i.store"
    monkeypatch.chdir(computed)
    code, data = streamer(capsys, "import", store, "x.npy", "--keys", "keys.csv", "--name", "clip", "--no-index")
    assert (code, data["generation"]) == (3, None)
    assert data["images"] == {"added": 88, "updated": 0, "unchanged": 0, "failed": 2}
    # Without an index, every row is looked at.
    code, data = streamer(capsys, "search", store, "--knn", "graph.h5", "-k", 3)
    assert (code, data["knn"]["images"], data["knn"]["exact"]) == (0, 88, True)

    config = computed / "config.yaml"
    config.write_text("store: i.store\nreduce: {components: 8}\nindex: {kind: ivf}\n", encoding="utf-8")
    assert streamer(capsys, "reduce", config)[0] == 3  # there are failures
    code, data = streamer(capsys, "index", config)
    assert (code, data["generation"], data["engine"]) == (3, 1, "")
    code, data = streamer(capsys, "import", store, "x.npy", "--keys", "keys.csv")
    assert (code, data["generation"], data["images"]["unchanged"]) == (3, 1, 88)

    code, data = streamer(capsys, "search", store, "--knn", "graph.h5", "-k", 3)
    assert (code, data["knn"]["exact"]) == (0, False)
    with h5py.File("graph.h5") as file:
        keys = dict(zip(file["image/id"][:].tolist(), file["image/key"].asstr()[:], strict=True))
        assert keys[file["ids"][0, 0]] == "c0/01.jpg" and file["distances"][0, 0] == 0
        assert {keys[number][:2] for number in file["ids"][50]} == {"c1"}
    code, data = streamer(capsys, "duplicates", store, "--threshold", 0.9999, "--sheet", "sheet.png")
    assert code == 0 and Path("sheet.png").is_file()
    assert [[each["key"] for each in group["images"]] for group in data["groups"]] == [["c0/00.jpg", "c0/01.jpg"]]
    code, data = streamer(capsys, "clusters", store)
    assert code == 0 and sum(each["images"] for each in data["clusters"]) == 88
    for option in ("--no-baselines", "--baselines"):
        code, data = streamer(capsys, "evaluate", store, option)
        assert code == 0 and data["recall_at_10"] > 0.99 and data["p_at_1"] > 0.95
    code, data = streamer(capsys, "info", store)
    assert (code, data["backbone"], data["outputs"]) == (0, "imported", {"clip": {"shape": [24], "dtype": "float32"}})
    assert (data["images"], data["failed"], data["index"]["kind"]) == (88, 2, "ivf")
    code, data = streamer(capsys, "failures", store)
    assert [each["key"] for each in data["failures"]] == ["c1/40.jpg", "c2/70.jpg"]
    assert streamer(capsys, "compact", store)[0] == 0
    code, data = streamer(capsys, "check", store)
    assert (code, data["clean"]) == (0, True)
    code, data = streamer(capsys, "export", store, "out")
    assert (code, data["images"], data["format"]) == (0, 88, "npy")


def test_sheets_of_imported_features_say_that_there_are_no_pictures(
    capsys: pytest.CaptureFixture[str], computed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pictures were crossed out, and nothing said why."""
    store = computed / "i.store"
    streamer(capsys, "import", store, computed / "x.npy", "--keys", computed / "keys.csv", "--no-index")

    def told(*arguments: object) -> str:
        with pytest.raises(SystemExit) as exit_:
            main([*map(str, arguments)])
        assert not exit_.value.code
        return capsys.readouterr().out

    asked = ("duplicates", store, "--threshold", 0.9999, "--exact", "--sheet", computed / "sheet.png")
    assert "2 pictures are crossed out, as there is no such file; the path of an image whose" in told(*asked)
    (computed / "photos" / "c0").mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (9, 9)).save(computed / "photos" / "c0" / f"{number:02d}.jpg")
    monkeypatch.chdir(computed / "photos")
    assert "crossed out" not in told(*asked)

    publish_index(store, "ivf", components=4)
    told_of_clusters = told("clusters", store, "--sheets", computed / "sheets", "--central", 90)
    assert "86 pictures are crossed out" in told_of_clusters  # of 88


def test_an_import_makes_an_index_unless_told_not_to(capsys: pytest.CaptureFixture[str], computed: Path) -> None:
    arguments = ("import", computed / "i.store", computed / "x.npy", "--keys", computed / "keys.csv")
    code, data = streamer(capsys, *arguments)
    assert (code, data["generation"]) == (3, 1)
    code, data = streamer(capsys, "info", computed / "i.store")
    assert data["index"]["rows"] == 88


def test_photos_and_imported_features_do_not_mix(
    capsys: pytest.CaptureFixture[str], computed: Path, pictures: Path
) -> None:
    store, keys = computed / "i.store", computed / "keys.csv"
    streamer(capsys, "import", store, computed / "x.npy", "--keys", keys, "--no-index")
    code, data = streamer(capsys, "search", store, next(pictures.rglob("*.jpg")))
    assert code == 2 and "a photo cannot be turned into such features here. What works:" in data["error"]
    config = computed / "config.yaml"
    for backbone in ("auto", "vgg16_compact"):
        text = f"store: i.store\nsource: {{folder: {pictures}}}\nbackbone: {{name: {backbone}}}\n"
        config.write_text(text, encoding="utf-8")
        code, data = streamer(capsys, "run", config)
        assert code == 2 and "holds features that were imported (imported); photos cannot be" in data["error"]
    config.write_text("store: i.store\n", encoding="utf-8")
    code, data = streamer(capsys, "extract", config)
    assert code == 2 and data["error"].startswith("'source' is missing")
    write_features(computed / "real.store", np.eye(24, dtype=np.float32))
    code, data = streamer(capsys, "import", computed / "real.store", computed / "x.npy", "--keys", keys)
    assert code == 2 and "holds features of vgg16" in data["error"]
    code, data = streamer(capsys, "search", store, computed / "real.store", "--knn", computed / "g.h5")
    assert code == 2 and "cannot be compared" in data["error"]


def test_a_damaged_store_is_repaired_by_another_import(capsys: pytest.CaptureFixture[str], computed: Path) -> None:
    store = computed / "i.store"
    arguments = ("import", store, computed / "x.npy", "--keys", computed / "keys.csv", "--no-index")
    streamer(capsys, *arguments)
    shard = store / "features" / "000001.h5"
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(SystemExit) as exit_:
        main(["check", str(store), "--repair"])
    assert not exit_.value.code and "import the same features again for the 88 images" in capsys.readouterr().out
    _, data = streamer(capsys, *arguments)
    assert data["images"] == {"added": 88, "updated": 0, "unchanged": 0, "failed": 2}
    assert streamer(capsys, "check", store)[0] == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell the peak")
def test_memory_does_not_grow_with_the_features(tmp_path: Path) -> None:
    """200 MB in by way of ``.npy``, out as every format, and in again from HDF5."""
    code = (
        "import sys; from pathlib import Path; from streamer.exchange import export_features, import_features\n"
        "folder = Path(sys.argv[1])\n"
        "import_features(folder / 'a.store', folder / 'x.npy', keys=folder / 'keys.csv')\n"
        "for name in ('out', 'out.h5', 'out.parquet'):\n"
        "    export_features(folder / 'a.store', folder / name)\n"
        "export_features(folder / 'a.store', folder / 'npz', format='npz')\n"
        "import_features(folder / 'b.store', folder / 'out.h5')\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(next(line.split()[1] for line in status.splitlines() if line.startswith('VmHWM')))\n"
    )
    peaks = []
    for rows in (400, 3200):
        folder = tmp_path / str(rows)
        folder.mkdir()
        array = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (rows, 16384))
        for start in range(0, rows, 400):
            array[start : start + 400] = np.random.default_rng(start).random((400, 16384), dtype=np.float32)
        array.flush()
        (folder / "keys.csv").write_text("key\n" + "".join(f"{number}.jpg\n" for number in range(rows)))
        done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) * 1024)
        with Store(folder / "b.store") as store:
            assert len(store) == rows
    assert peaks[1] - peaks[0] < 24 * MIB, peaks
