"""Images in, features out: what the extractor adds to its rooms."""

from __future__ import annotations

import logging
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from streamer.backbones import Output
from streamer.engines import Engine
from streamer.errors import EngineUnavailableError
from streamer.extraction import Extractor, ExtractSettings, Network
from streamer.images.sources import FolderSource
from streamer.records import ImageRef


def network(*outputs: Output) -> Network:
    return Network.choose("vgg16", outputs or None, (32, 32), "random", 0, "full", download=False)


def settings(**changes: object) -> ExtractSettings:
    base = ExtractSettings("auto", "cpu", 2**30, None, None, 10**8, 2**26)
    return ExtractSettings(**{**vars(base), **changes})  # type: ignore[arg-type]


class Stub(Engine):
    """Gives the mean colour, and NaN for one image of choice; for faults that no real network can be made to show."""

    name = "stub"
    device = "cpu"
    input_size = (32, 32)

    def __init__(self, batch_size: int, bad: int = -1) -> None:
        self.batch_size = batch_size
        self.outputs = {"block5_pool:gem": (3,)}
        self._bad = bad
        self._seen = 0

    def _extract(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        means = pixels.mean(axis=(1, 2)).astype(np.float32)
        for place in range(len(pixels)):
            if self._seen + place == self._bad:
                means[place] = np.nan
        self._seen += len(pixels)
        return {"block5_pool:gem": means}

    def close(self) -> None:
        pass


def refs(folder: Path) -> list[ImageRef]:
    return [each for each in FolderSource(folder) if isinstance(each, ImageRef)]


def test_features_that_are_not_finite_are_rejected_and_spoil_no_neighbour(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = refs(pictures)
    monkeypatch.setattr(Extractor, "start", lambda self: Stub(self.plan.batch, bad=13))
    found = list(Extractor(network(), settings()).features(images))
    assert [ref for batch in found for ref in batch.refs] == images[:13] + images[14:]
    assert [each.ref for batch in found for each in batch.rejected] == [images[13]]
    assert "not finite" in next(each.reason for batch in found for each in batch.rejected)
    assert all(len(batch.refs) == len(batch.contents) == len(batch.features["block5_pool:gem"]) for batch in found)
    assert all(np.isfinite(batch.features["block5_pool:gem"]).all() for batch in found)


def test_images_that_are_all_unreadable_make_a_batch_of_none(tmp_path: Path) -> None:
    """An all-bad batch once ended the run in a reshape."""
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_text("no picture")
    (batch,) = Extractor(network(), settings()).features(refs(tmp_path))
    assert (batch.refs, len(batch.rejected)) == ((), 3)


def test_a_gpu_that_the_engine_cannot_use_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = []

    def open_engine(*args: object, device: str, mode: object, **rest: object) -> Engine:
        opened.append((device, mode))
        if device == "gpu":
            raise EngineUnavailableError("the backend sees none")
        return Stub(8)

    monkeypatch.setattr(
        "streamer.extraction.extractor.choose_device", lambda device: "gpu" if device != "cpu" else "cpu"
    )
    monkeypatch.setattr("streamer.extraction.extractor.open_engine", open_engine)
    with caplog.at_level(logging.WARNING):
        extractor = Extractor(network(), settings(device="auto", budget_bytes=2**32))
        extractor.start()
    assert [device for device, _ in opened] == ["gpu", "cpu"]
    assert opened[1][1] in extractor._modes and extractor.device == "cpu"  # the plan is made anew, for the CPU
    assert "there is a GPU, but the backend sees none; running on the CPU" in caplog.text
    with pytest.raises(EngineUnavailableError):
        Extractor(network(), settings(device="gpu", budget_bytes=2**32)).start()


def test_a_network_is_found_again_from_what_a_store_says_of_it() -> None:
    made = network(Output("block5_pool", "gem"), Output("block4_conv2"), Output("block5_conv3", "max"))
    assert Network.of_store(made.spec()).spec() == made.spec()


def test_the_same_bytes_are_extracted_once_in_order(pictures: Path, tmp_path: Path) -> None:
    """The second copy is known before the features of the first have come back."""
    paths = sorted(pictures.rglob("*.jpg"))[:3]
    for number, path in enumerate([paths[0], paths[1], paths[0], paths[2], paths[1], paths[0]]):
        (tmp_path / f"{number}.jpg").write_bytes(path.read_bytes())
    asked: list[bytes] = []
    stored = blake2b(paths[2].read_bytes(), digest_size=16).digest()

    def known(content: bytes) -> bool:
        asked.append(content)
        return content == stored

    with Extractor(network(), settings()) as extractor:
        batches = list(extractor.features(refs(tmp_path), known=known))
    assert [each.key for batch in batches for each in batch.refs] == ["0.jpg", "1.jpg"]
    copies = [(each.ref.key, each.content) for batch in batches for each in batch.known]
    digests = [blake2b((tmp_path / f"{number}.jpg").read_bytes(), digest_size=16).digest() for number in range(6)]
    assert copies == [(f"{number}.jpg", digests[number]) for number in (2, 3, 4, 5)]
    assert set(asked) == set(digests)


def test_no_network_is_loaded_for_what_is_known(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Extractor(network(), settings()) as extractor:
        monkeypatch.setattr(Extractor, "start", lambda self: pytest.fail("the network was loaded"))
        batches = list(extractor.features(refs(pictures), known=lambda content: True))
    assert sum(len(batch.known) for batch in batches) == 40
