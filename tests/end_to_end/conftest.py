"""What whole runs share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streamer.extraction import Extractor


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, starting an engine fails the test."""

    def forbid() -> None:
        def start(self: Extractor) -> None:
            raise AssertionError("an engine was started though there was nothing to extract")

        monkeypatch.setattr(Extractor, "start", start)

    return forbid
