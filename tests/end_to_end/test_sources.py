"""The same photos out of a folder, archives and a list: the same keys, labels and features, byte for byte."""

from __future__ import annotations

import logging
import os
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamer.config import Config, load_config
from streamer.errors import ConfigError, StreamerError
from streamer.pipeline import run
from streamer.report import contact_sheet
from streamer.searcher import Searcher
from streamer.store import Store
from tests.end_to_end.test_pipeline import features_by_key

Make = Callable[..., Config]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(name: str, source: dict[str, Any]) -> Config:
        path = tmp_path / f"{name}.yaml"
        text = {"store": f"{name}.store", "source": source, "backbone": {"name": "vgg16_compact"}}
        path.write_text(yaml.safe_dump(text))
        return load_config(path, ["memory.budget=8GiB", "index.kind=exact"])

    return make


@pytest.fixture
def packed(pictures: Path, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The drawn pictures as each kind of source; in an order that is not that of the keys."""
    files = sorted(pictures.rglob("*.jpg"), reverse=True)
    names = [path.relative_to(pictures).as_posix() for path in files]
    with tarfile.open(tmp_path / "a.tar", "w") as tar, zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path, name in zip(files, names, strict=True):
            tar.add(path, name)
            archive.write(path, name)
    lines = [f"{os.path.relpath(path, tmp_path)},{name}" for path, name in zip(files, names, strict=True)]
    (tmp_path / "a.csv").write_text("path,key\n" + "\n".join(lines) + "\n")
    places = {"tar": "a.tar", "zip": "a.zip", "list": "a.csv", "folder": str(pictures)}
    return {kind: {kind: place} for kind, place in places.items()}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket of S3 on loopback; the environment says how to get there."""
    server_of = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("obstore")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_of.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "very-secret", "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    reset = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")  # it is one for the process
    urllib.request.urlopen(reset).close()
    found = boto3.resource("s3").Bucket("photos")
    found.create()
    yield found
    server.stop()


def test_photos_of_a_bucket_are_the_same_and_no_secret_is_kept(
    make: Make, bucket: Any, packed: dict[str, dict[str, Any]], pictures: Path, tmp_path: Path
) -> None:
    for path in pictures.rglob("*.jpg"):
        bucket.upload_file(str(path), f"my library/{path.relative_to(pictures).as_posix()}")
    bucket.put_object(Key="my library/notes.txt", Body=b"no photo")
    bucket.put_object(Key="another/x.jpg", Body=b"not ours")
    config, folder = make("s3", {"url": "s3://photos/my library/"}), make("folder", packed["folder"])
    assert run(config).images["added"] == 40 == run(folder).images["added"]
    assert features_by_key(config.store) == features_by_key(folder.store)
    assert rows(config.store) == rows(folder.store)
    assert run(config).images["unchanged"] == 40
    first, second = sorted(each.key for each in bucket.objects.filter(Prefix="my library/"))[:2]
    bucket.Object(first).copy_from(CopySource=f"photos/{second}")
    bucket.Object(second).delete()
    images = run(config).images
    assert (images["seen"], images["unchanged"], images["removed"], images["failed"]) == (39, 38, 1, 0)
    with Searcher(config.store) as searcher:
        assert searcher.search([f"s3://photos/{first}"], k=1)[0].hits[0].score == pytest.approx(1)
    kept = [path for path in config.store.rglob("*") if path.is_file()]
    assert kept and not any(b"very-secret" in path.read_bytes() for path in kept)


def test_a_bucket_that_cannot_be_listed_loses_nothing(
    make: Make, bucket: Any, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = next(pictures.rglob("*.jpg"))
    bucket.upload_file(str(path), "a.jpg")
    config = make("s3", {"url": "s3://photos"})
    assert run(config).images["added"] == 1
    with pytest.raises(StreamerError, match="s3://elsewhere: cannot be listed: there is no such object"):
        run(make("s3", {"url": "s3://elsewhere"}))
    with Store(config.store) as store:
        assert len(store) == 1


def rows(path: Path) -> list[tuple[str, str]]:
    with Store(path) as store:
        return [(key, label) for key, *_, label, _ in store.catalog.known()]


def test_the_same_photos_from_anywhere_are_the_same(
    make: Make, packed: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    configs = {kind: make(kind, source) for kind, source in packed.items()}
    for config in configs.values():
        report = run(config)
        assert report.images["added"] == report.images["seen"] == 40 and report.images["failed"] == 0
    expected = features_by_key(configs["folder"].store)
    for kind in ("tar", "zip", "list"):
        assert features_by_key(configs[kind].store) == expected
        assert rows(configs[kind].store) == rows(configs["folder"].store)
        assert run(configs[kind]).images["unchanged"] == 40
        with Searcher(configs[kind].store) as searcher, Store(configs[kind].store) as store:
            place = store.catalog.execute("SELECT path FROM images WHERE id = 7")[0][0]
            results = searcher.search([place], k=3)
            assert results[0].hits[0].score == pytest.approx(1) and results[0].hits[0].path == place
            contact_sheet(results, tmp_path / "sheet.png")


def test_a_library_that_moves_into_an_archive_is_not_extracted_again(
    make: Make, packed: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    config = make("a", packed["folder"])
    run(config)
    with Store(config.store) as store:
        before = store.shard_numbers()
    images = run(make("a", packed["zip"])).images
    assert (images["added"], images["removed"], images["seen"]) == (0, 0, 40)
    with Store(config.store) as store:
        assert store.shard_numbers() == before
        assert store.catalog.execute("SELECT count(*) FROM images WHERE path LIKE '%a.zip#%'") == [(40,)]


def test_shards_are_found_by_a_pattern_and_one_that_is_broken_loses_nothing(
    make: Make, pictures: Path, tmp_path: Path
) -> None:
    files = sorted(pictures.rglob("*.jpg"))
    for shard in range(2):
        with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as tar:
            for path in files[shard::2]:
                tar.add(path, path.relative_to(pictures).as_posix())
    config = make("a", {"tar": "train-*.tar"})
    assert run(config).images["added"] == 40
    whole = (tmp_path / "train-1.tar").read_bytes()
    (tmp_path / "train-1.tar").write_bytes(whole[: len(whole) // 2])
    report = run(config)
    assert (report.images["failed"], report.images["removed"], report.exit_code) == (1, 0, 3)
    with Store(config.store) as store:
        assert len(store) == 40 and "cannot be listed" in next(store.catalog.failures()).reason
    (tmp_path / "train-1.tar").write_bytes(whole)
    assert run(config).images["failed"] == 0
    with pytest.raises(ConfigError, match=r"no file fits .*test-\*\.tar"):
        run(make("b", {"tar": "test-*.tar"}))


def test_two_members_of_one_name_are_named_and_the_first_stays(make: Make, pictures: Path, tmp_path: Path) -> None:
    first, second, third = sorted(pictures.rglob("*.jpg"))[:3]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path, name in ((first, "x.jpg"), (second, "x.jpg"), (third, "/b.jpg"), (third, "b.jpg")):
            info = tar.gettarinfo(path)
            info.name = name
            with path.open("rb") as file:
                tar.addfile(info, file)
    config = make("a", {"tar": "a.tar"})
    for night in range(3):
        report = run(config)
        assert (report.images["added"], report.images["unchanged"]) == ((2, 0) if night == 0 else (0, 2))
        assert (report.images["failed"], report.exit_code) == (2, 3)
        with Store(config.store) as store:
            assert [key for key, *_ in store.catalog.known()] == ["b.jpg", "x.jpg"]
            reasons = [failure.reason for failure in store.catalog.failures()]
        assert "absolute path" in reasons[0] and "same key" in reasons[1]


def test_a_list_that_names_a_photo_twice_has_it_once(make: Make, pictures: Path, tmp_path: Path) -> None:
    path = next(pictures.rglob("*.jpg"))
    (tmp_path / "a.txt").write_text(f"{path}\n{path}\n")
    config = make("a", {"list": "a.txt"})
    for _ in range(3):
        report = run(config)
        assert (report.images["seen"], report.images["failed"], report.exit_code) == (1, 0, 0)


def test_an_archive_that_is_still_being_copied_changes_nothing(
    make: Make, packed: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    config = make("a", packed["tar"])
    run(config)
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(StreamerError, match="Nothing was changed; copy it anew"):
        run(config)
    with Store(config.store) as store:
        assert len(store) == 40


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"folder": ".", "zip": "a.zip"}, "folder and zip are given"),
        ({}, "none of folder, list, tar, zip, array, stl10, url is given"),
        ({"zip": "a.zip", "exclude": ["x"]}, "exclude is for the files of a folder; leave it out with zip"),
        ({"array": "a.h5"}, "dataset is missing"),
        ({"array": "a.npy", "dataset": "x"}, "leave it out"),
    ],
)
def test_what_a_config_cannot_mean(make: Make, source: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make("a", source)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://key:secret@bucket/x", "holds a name or password"),
        ("https://example.org/photos", r"a web server cannot be listed; name its photos in source\.list"),
        ("photos/", "is no address of an object store"),
    ],
)
def test_an_address_that_cannot_be_a_source(make: Make, url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        run(make("a", {"url": url}))
    assert "secret" not in str(error.value)
