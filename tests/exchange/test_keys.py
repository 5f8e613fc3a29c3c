"""The names of rows: what a CSV file may be, and how its faults are told."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from streamer.errors import StreamerError
from streamer.exchange import keys as module
from streamer.exchange.keys import checked_names, count_names
from streamer.tables import KeyTable


def names(folder: Path, text: str, encoding: str = "utf-8") -> KeyTable:
    path = folder / "keys.csv"
    path.write_bytes(text.encode(encoding))
    return KeyTable(path, label_optional=True)


def fault(file: KeyTable, folder: Path) -> str:
    with pytest.raises(StreamerError) as error:
        count_names(file)
    return str(error.value).replace(str(folder / "keys.csv"), "keys.csv")


@pytest.mark.parametrize(
    "text",
    [
        "key,label\na/1.jpg,a\n2.jpg,\n",
        "key,label\r\na/1.jpg,a\r\n2.jpg,\r\n\r\n",
        "label,more,key\na,x,a/1.jpg\n,y,2.jpg",
        'key,label\n"a/1.jpg","a"\n"2.jpg",""\n',
        "\ufeffkey,label\na/1.jpg,a\n2.jpg,\n",  # as spreadsheets write it
    ],
)
def test_columns_are_found_by_their_names(tmp_path: Path, text: str) -> None:
    file = names(tmp_path, text)
    assert [(key, label) for _, key, label in checked_names(file)] == [("a/1.jpg", "a"), ("2.jpg", "")]
    assert count_names(file) == 2
    assert [line for line, _, _ in file] == [2, 3]


def test_labels_may_be_left_out(tmp_path: Path) -> None:
    assert list(names(tmp_path, "key\n1.jpg\n2.jpg\n")) == [(2, "1.jpg", ""), (3, "2.jpg", "")]
    assert count_names(names(tmp_path, "key\n")) == 0


def test_spaces_at_the_ends_of_labels_are_taken_off_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = names(tmp_path, "key,label\na.jpg,cat \nb.jpg,cat\n")
    assert count_names(file) == 2
    assert [label for _, _, label in checked_names(file)] == ["cat", "cat"]
    assert [each.getMessage() for each in caplog.records] == [
        f"{tmp_path / 'keys.csv'}:2: spaces were taken off the label 'cat ', and off 1 in all"
    ]


def test_keys_come_in_the_form_of_those_of_photos(tmp_path: Path) -> None:
    apart, together = (unicodedata.normalize(form, "é.jpg") for form in ("NFD", "NFC"))
    assert [key for _, key, _ in checked_names(names(tmp_path, f"key\n{apart}\n"))] == [together]
    text = fault(names(tmp_path, f"key\n{apart}\nb.jpg\n{together}\n"), tmp_path)
    assert text.startswith("keys.csv:4: the key 'é.jpg' stands at keys.csv:2 already")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "keys.csv:1: the first line is '', not 'key,label' or 'key'"),
        ("name,label\na,b\n", "keys.csv:1: the first line is 'name,label', not 'key,label' or 'key'"),
        ("key,label\na.jpg\n", "keys.csv:2: 1 fields where the first line names 2"),
        ("key,label\na,b.jpg,c\n", "keys.csv:2: 3 fields where the first line names 2"),
        ("key,label\n,c\n", "keys.csv:2: the key '' is empty"),
        ("key\n/etc/passwd\n", "keys.csv:2: the key '/etc/passwd' is an absolute path"),
        ("key\nC:\\photos\\a.jpg\n", "is an absolute path"),
        ("key\na.jpg\n../b.jpg\n", "keys.csv:3: the key '../b.jpg' has '..' between its slashes"),
        ("key\na/../b.jpg\n", "has '..' between its slashes"),
        ("key\na//b.jpg\n", "has '' between its slashes"),
        ("key\n./b.jpg\n", "has '.' between its slashes"),
        ('key\n"a.jpg\n', "keys.csv:2: not CSV"),
        ("key\n" + "a" * 200_000 + "\n", "keys.csv:2: not CSV"),
        ("key\na.jpg\nb.jpg\na.jpg\n", "keys.csv:4: the key 'a.jpg' stands at keys.csv:2 already"),
    ],
)
def test_a_fault_is_told_with_its_line(tmp_path: Path, text: str, what: str) -> None:
    assert what in fault(names(tmp_path, text), tmp_path)


def test_another_encoding_is_told(tmp_path: Path) -> None:
    assert "keys.csv:2: not UTF-8 text" in fault(names(tmp_path, "key\né.jpg\n", "latin-1"), tmp_path)


def test_equal_hashes_of_other_keys_are_no_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "key_hash", len)
    assert count_names(names(tmp_path, "key\na.jpg\nb.jpg\nccc.jpg\n")) == 3
    assert "stands at keys.csv:3 already" in fault(names(tmp_path, "key\na.jpg\nb.jpg\nb.jpg\n"), tmp_path)
