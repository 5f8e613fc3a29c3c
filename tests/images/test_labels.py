"""Labels from a CSV file."""

from __future__ import annotations

import csv
import logging
import random
import tracemalloc
from pathlib import Path

import pytest

from streamer.errors import ConfigError
from streamer.images import labelled, read_labels
from streamer.records import ImageRef, Rejected
from tests.conftest import ref


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def fault(folder: Path, text: str | bytes) -> str:
    path = write(folder, text)
    with pytest.raises(ConfigError) as error:
        read_labels(path)
    return str(error.value).replace(str(path), "labels.csv")


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_keys_have_the_labels_of_their_lines(tmp_path: Path, mark: str, end: str) -> None:
    lines = ["key,label", "b/1.jpg,dog", '"a, b.jpg","the ""best"" cat"', "", "é.jpg,", "b/2.jpg,dog"]
    labels = read_labels(write(tmp_path, mark + end.join(lines)))
    assert len(labels) == 4
    assert {key: labels.get(key, "none") for key in ("b/1.jpg", "a, b.jpg", "é.jpg", "b/2.jpg", "b/3.jpg")} == {
        "b/1.jpg": "dog",
        "a, b.jpg": 'the "best" cat',
        "é.jpg": "",
        "b/2.jpg": "dog",
        "b/3.jpg": "none",
    }


def test_columns_stand_in_any_order_and_keys_are_told_in_any_normal_form(tmp_path: Path) -> None:
    """A Mac writes é as two code points; keys are of one."""
    labels = read_labels(write(tmp_path, "label,by,key\ncat,me,e\u0301.jpg\n"))
    assert labels.get("é.jpg") == "cat"


def test_spaces_at_the_ends_of_labels_make_no_other_class_and_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, "key,label\na.jpg,cat\nb.jpg, cat\nc.jpg,big dog \nd.jpg,\u00a0\na.jpg,cat \n")
    with caplog.at_level(logging.WARNING):
        labels = read_labels(path)
        assert labels.keys_at([labels.place("c.jpg")]) == ["c.jpg"]  # reads it again
    assert [labels.get(f"{key}.jpg") for key in "abcd"] == ["cat", "cat", "big dog", ""]
    assert [each.getMessage() for each in caplog.records] == [
        f"{path}:3: spaces were taken off the label ' cat', and off 4 in all"
    ]


def test_many_keys_equal_a_dict(tmp_path: Path) -> None:
    chance = random.Random(0)
    wanted = {f"{chance.randrange(10**9)}/{number}.jpg": f"class {chance.randrange(50)}" for number in range(3000)}
    path = tmp_path / "labels.csv"
    with path.open("w", newline="") as file:
        rows = [*wanted.items(), *chance.sample(list(wanted.items()), 500)]  # equal duplicates are no fault
        csv.writer(file).writerows([("key", "label"), *rows])
    labels = read_labels(path)
    assert len(labels) == 3000 and set(labels.names) == set(wanted.values())
    assert {key: labels.get(key) for key in wanted} == wanted
    assert labels.keys_at([labels.place(key) for key in list(wanted)[5:8]]) == list(wanted)[5:8]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "labels.csv:1: the first line is '', not 'key,label'"),
        ("a.jpg,cat\n", "labels.csv:1: the first line is 'a.jpg,cat', not 'key,label'"),
        ("key;label\na.jpg;cat\n", "labels.csv:1: the first line is 'key;label', not 'key,label'"),
        ("key,label\n", "labels.csv: there is no image in it"),
        ("key,label\na.jpg,cat, white\n", "labels.csv:2: 3 fields where the first line names 2"),
        ("key,label\n\na.jpg\n", "labels.csv:3: 1 fields where the first line names 2"),
        ('key,label\na.jpg,cat\n"b.jpg,dog\nc.jpg,cat\n', "labels.csv:3: not CSV: unexpected end of data"),
        (b"key,label\na.jpg,caf\xe9\n", "labels.csv:2: not UTF-8 text"),
        ("key,label\na.jpg,cat\n".encode("utf-16"), "labels.csv:1: not UTF-8 text"),
        (
            "key,label\na.jpg,cat\nb.jpg,dog\na.jpg,cat\na.jpg,dog\nb.jpg,cat\n",
            "labels.csv:5: 'a.jpg' is labelled 'dog', but 'cat' in line 2",
        ),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert fault(tmp_path, text).startswith(said)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.csv: cannot be read \(No such file"):
        read_labels(tmp_path / "nowhere.csv")


def test_a_listing_takes_the_labels_of_the_file_and_differences_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = "".join(f"gone{number}.jpg,cat\n" for number in range(5))
    labels = read_labels(write(tmp_path, f"key,label\n{gone}a/1.jpg,dog\na/2.jpg,cat\n"))
    listing: list[ImageRef | Rejected] = [
        ref("a/1.jpg"),
        Rejected(ref("a/2.jpg"), "broken", lasting=False),
        ref("a/3.jpg"),
        ref("a/4.jpg"),
    ]
    with caplog.at_level(logging.WARNING):
        found = list(labelled(listing, labels))
    assert [each.label if isinstance(each, ImageRef) else each.ref.label for each in found] == ["dog", "cat", "", ""]
    assert isinstance(found[1], Rejected) and (found[1].reason, found[1].lasting) == ("broken", False)
    assert [each.getMessage().partition(": ")[2] for each in caplog.records] == [
        "5 of its 7 keys are not in the source: 'gone0.jpg', 'gone1.jpg', 'gone2.jpg', ...",
        "2 of the 3 images are not in it and have no label: 'a/3.jpg', 'a/4.jpg'",
    ]


def test_a_file_of_another_source_is_an_error(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path, "key,label\nphotos/1.jpg,cat\n"))
    with pytest.raises(ConfigError, match=r"none of its 1 keys .* names 'photos/1\.jpg', the source has '1\.jpg'"):
        list(labelled([ref("1.jpg"), ref("2.jpg")], labels))
    assert list(labelled([], labels)) == []  # what an empty source means is told by others


def test_a_key_takes_few_bytes(tmp_path: Path) -> None:
    text = "key,label\n" + "".join(f"holiday/{number:06d}.jpg,class {number % 9}\n" for number in range(50_000))
    path = write(tmp_path, text)
    tracemalloc.start()
    labels = read_labels(path)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(labels) == 50_000
    assert held < 20 * 50_000 + 10_000 and peak < 100 * 50_000
