"""Images on web servers that misbehave, and addresses that are none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.images import ListSource, SourceUnavailableError
from streamer.images.decode import decode_stream
from streamer.images.downloads import fetched_ahead
from streamer.images.pixels import DecodeLimits
from streamer.images.sources.remote import RemoteSource
from streamer.objects import RemoteLimits, is_remote, url_fault
from streamer.records import Decoded, Fetched, ImageRef, Rejected
from tests.images.sources.archived import picture, taken
from tests.images.sources.web import Web, serving

pytest.importorskip("obstore")

QUICK = RemoteLimits(concurrency=4, lookahead_bytes=10_000, timeout_seconds=0.4, retries=1)
FILES = {f"/lib/{number}.png": picture(number) for number in range(8)}


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(FILES) as web:
        yield web


def listed(web: Web, folder: Path) -> list[ImageRef]:
    (folder / "a.txt").write_text("".join(f"{web.url}{path}\n" for path in web.files))
    return taken(ListSource(folder / "a.txt", QUICK))


def decoded(refs: list[ImageRef], limits: RemoteLimits = QUICK) -> dict[str, Decoded | Rejected]:
    found = decode_stream(
        fetched_ahead(refs, limits, 10**6),
        size=(8, 8),
        threads=2,
        lookahead_images=3,
        limits=DecodeLimits(10**7, 10**6, 10**8),
    )
    return {each.ref.key.rpartition("/")[2]: each for each in found}  # type: ignore[misc]


def test_what_a_list_names_is_fetched(web: Web, tmp_path: Path) -> None:
    refs = listed(web, tmp_path)
    host = web.url.removeprefix("http://")
    assert [ref.key for ref in refs] == [f"{host}/lib/{number}.png" for number in range(8)]
    assert {ref.label for ref in refs} == {"lib"} and [ref.size for ref in refs] == list(map(len, FILES.values()))
    assert all(isinstance(each, Decoded) and type(each.ref) is ImageRef for each in decoded(refs).values())
    assert len(web.asked) == 8 and [ref.mtime_ns for ref in refs] == [listed(web, tmp_path)[0].mtime_ns] * 8


def test_each_fault_is_named_and_none_holds_up_the_others(web: Web, tmp_path: Path) -> None:
    refs = listed(web, tmp_path)
    kinds = ["403", "404", "slow", "reset", "short", "changed", "flaky", ""]
    web.faults = dict(zip(FILES, kinds, strict=True))
    found = decoded(refs)
    said = {
        "0.png": r"access is refused (403)",
        "1.png": "there is no such object (404)",
        "2.png": "no answer in time, after 1 retries",
        "5.png": "it changed between listing and reading",
    }
    for name, reason in said.items():
        each = found[name]
        assert isinstance(each, Rejected) and reason in each.reason and not each.lasting, each
    for name in ("3.png", "4.png"):
        each = found[name]
        assert isinstance(each, Rejected) and not each.lasting and "127.0.0.1" not in each.reason
    assert isinstance(found["6.png"], Decoded) and isinstance(found["7.png"], Decoded)  # the retry was good


def test_what_is_not_there_when_it_is_listed_is_named(web: Web, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{web.url}/gone.png\nhttp://127.0.0.1:1/a.png\n{web.url}/lib/1.png?sig=secret\n")
    first, second, third = ListSource(tmp_path / "a.txt", QUICK)
    assert isinstance(first, Rejected) and "(404)" in first.reason and not first.lasting
    assert isinstance(second, Rejected) and "no connection" in second.reason
    assert isinstance(third, Rejected) and "holds a query" in third.reason and web.asked == []


def test_so_many_are_fetched_at_one_time(web: Web, tmp_path: Path) -> None:
    refs = listed(web, tmp_path)
    web.pause_seconds = 0.05
    decoded(refs)
    assert 2 <= web.most_at_once <= QUICK.concurrency
    web.most_at_once = 0
    decoded(refs, RemoteLimits(concurrency=4, lookahead_bytes=1, timeout_seconds=2.0))  # each larger than the room
    assert web.most_at_once == 1


def test_images_are_not_fetched_further_ahead_than_there_is_room(web: Web, tmp_path: Path) -> None:
    refs = listed(web, tmp_path)
    largest = max(ref.size for ref in refs)
    stream = fetched_ahead(refs, RemoteLimits(8, 3 * largest, 2.0, 0), 10**6)
    held = [next(stream), next(stream)]
    assert all(isinstance(each, Fetched) for each in held) and len(web.asked) <= 4
    held.clear()  # or the next would wait for them for ever
    for each in stream:
        assert isinstance(each, Fetched)
        del each
    assert len(web.asked) == 8


def test_who_stops_early_waits_for_nothing(web: Web, tmp_path: Path) -> None:
    refs = listed(web, tmp_path)
    web.faults = dict.fromkeys(list(FILES)[1:], "slow")
    stream = fetched_ahead(refs, RemoteLimits(4, 10**6, 20.0, 0), 10**6)
    assert isinstance(next(stream), Fetched)
    stream.close()  # the requests under way would take twenty seconds


def test_an_object_beyond_the_limit_is_not_fetched(web: Web, tmp_path: Path) -> None:
    refs = listed(web, tmp_path)
    found = list(fetched_ahead(refs, QUICK, 100))
    assert all(isinstance(each, Rejected) and "larger than the limit of 100" in each.reason for each in found)
    assert web.asked == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://key:secret@bucket/x", "holds a name or password"),
        ("https://host/a.jpg?X-Amz-Signature=1", "holds a query"),
        ("ftp://host/a", "is no address of an object store"),
        ("s3:///a", "is no address of an object store"),
    ],
)
def test_an_address_that_holds_a_secret_is_refused(url: str, said: str) -> None:
    assert said in (url_fault(url) or "")
    assert url_fault("s3://bucket/with space/a?b") is None and is_remote("S3://bucket/x") and not is_remote("C:/x.jpg")


def test_a_store_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(SourceUnavailableError, match=r"s3://photos/a: cannot be listed: no connection") as error:
        list(RemoteSource("s3://photos/a", QUICK))
    assert "secret" not in str(error.value)
