"""Images that a file lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamer.images import ListSource, SourceUnavailableError
from streamer.records import Decoded, ImageRef, Rejected
from tests.images.sources.archived import decoded, picture, refused, taken


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(["cat/a.png", "dog/b c.png", "ünder.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture(number))
    return tmp_path


def listed(folder: Path, name: str, text: str) -> list[ImageRef]:
    (folder / name).write_text(text, encoding="utf-8")
    source = ListSource(folder / name)
    assert refused(source) == {}
    return taken(source)


def test_a_text_file_has_a_path_a_line(photos: Path) -> None:
    refs = listed(photos, "a.txt", f"dog/b c.png\r\n\n./cat/a.png\nünder.png\n{photos}/cat/../cat/a.png\n")
    absolute = f"{photos}/cat/a.png".lstrip("/")
    assert [ref.key for ref in refs] == ["dog/b c.png", "cat/a.png", "ünder.png", absolute]
    assert [ref.label for ref in refs] == ["dog", "cat", "", "cat"]
    assert refs[1].path == str(photos / "cat" / "a.png") and refs[1].size == len(picture(0))
    assert all(isinstance(each, Decoded) for each in decoded(refs))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_table_has_labels_and_keys(photos: Path, name: str) -> None:
    rows = [
        {"taken": "2024", "label": " Cats ", "path": "cat/a.png", "key": "one"},
        {"taken": "2025", "label": "", "path": "dog/b c.png", "key": ""},
    ]
    if name == "a.parquet":
        pyarrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet as parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), photos / name)
        refs = taken(ListSource(photos / name))
    elif name == "a.jsonl":
        refs = listed(photos, name, "\n".join(map(json.dumps, rows)) + "\n")
    else:
        lines = ["taken,label,path,key", *(",".join(row.values()) for row in rows)]
        refs = listed(photos, name, "\ufeff" + "\r\n".join(lines))
    assert [(ref.key, ref.label) for ref in refs] == [("one", "Cats"), ("dog/b c.png", "")]
    assert listed(photos, "b.csv", "path\ncat/a.png\n")[0].label == "cat"


def test_what_is_not_there_is_named_and_the_rest_is_taken(photos: Path) -> None:
    (photos / "a.txt").write_text("gone.png\ncat\ncat/a.png\n")
    source = ListSource(photos / "a.txt")
    assert [ref.key for ref in taken(source)] == ["cat/a.png"]
    assert "vanished" in refused(source)["gone.png"] and "not a regular file" in refused(source)["cat"]


def test_a_path_that_can_be_none_is_named_and_the_rest_is_taken(photos: Path) -> None:
    rows = ["a\0b.png", "half \ud800.png", "http://[::1/x.jpg", "cat/a.png"]
    (photos / "a.jsonl").write_text("".join(json.dumps({"path": path}) + "\n" for path in rows))
    source = ListSource(photos / "a.jsonl")
    assert [ref.key for ref in taken(source)] == ["cat/a.png"]
    reasons = list(refused(source).values())
    assert len(reasons) == 3 and sum("no file has such a path" in reason for reason in reasons) == 2
    assert sum("is no address" in reason for reason in reasons) == 1


@pytest.mark.parametrize(
    "address", ["https://me:hunter2@host/a.jpg", "https://host/a.jpg?sig=hunter2", "s3://hunter2@b/a.jpg"]
)
def test_a_secret_in_a_list_is_not_passed_on(photos: Path, address: str) -> None:
    (photos / "a.txt").write_text(address + "\n")
    (found,) = ListSource(photos / "a.txt")
    assert isinstance(found, Rejected) and "hunter2" not in repr(found)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.csv", b"file,label\na.png,x\n", r"columns file, label, but no 'path'"),
        ("a.csv", b"", r"columns \(none\), but no 'path'"),
        ("a.csv", b"path,label\n,x\n", r"line 2: has no path \(''\)"),
        ("a.csv", b'path\n"a\n', "cannot be read"),
        ("a.jsonl", b'{"path": 3}\n', r"line 1: has no path \(3\)"),
        ("a.jsonl", b'{"path": "a.png"\n', "line 1: is not JSON"),
        ("a.jsonl", b"[]\n", "line 1: is not a JSON object"),
        ("a.txt", b"\xff\xfe\n", "cannot be read"),
        ("a.parquet", b"PAR1", "not a parquet file"),
        ("a.xlsx", b"", r"of the kind '\.xlsx' is not read here"),
        ("gone.csv", None, r"cannot be read \(No such file.*source\.list"),
    ],
)
def test_what_is_no_list_is_named(tmp_path: Path, name: str, data: bytes | None, said: str) -> None:
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceUnavailableError, match=said):
        taken(ListSource(tmp_path / name))


def test_a_list_that_changes_meanwhile_is_not_taken_for_whole(photos: Path) -> None:
    (photos / "a.txt").write_text("cat/a.png\nünder.png\n", encoding="utf-8")
    listing = iter(ListSource(photos / "a.txt"))
    next(listing)
    (photos / "a.txt").write_text("cat/a.png\n")
    with pytest.raises(SourceUnavailableError, match="changed while it was being read"):
        list(listing)
