"""The server among clients that mean ill, and held against its own description."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serving.conftest import Served
from tests.serving.malformed import malformed_requests


def test_malformed_requests_are_refused_and_do_no_harm(
    served: Served, small_library: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The short version of scripts/torture_serve.py."""
    for kind, data, ends in malformed_requests(80, 1, served.port):
        found = b""
        with served.connect() as connection:
            with contextlib.suppress(OSError):  # it may be refused before all is sent
                connection.sendall(data)
                if not ends:
                    connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                while piece := connection.recv(65536):
                    found += piece
        head, _, body = found.partition(b"\r\n\r\n")
        if not found:
            assert not ends or kind in ("huge_headers", "noise", "wrong_length"), (kind, data[:200])
            continue
        status = int(head.split()[1])
        # A picture with a few wrong bytes may be one all the same, and so may a body that was announced too short.
        assert status in (*range(400, 500), 501) or (
            status == 200 and kind in ("fuzzed", "wrong_length", "path", "bad_json")
        )
        if status != 200 and b"application/json" in head and body:
            assert set(json.loads(body)["error"]) == {"code", "message", "id"}
        assert b"Traceback" not in found and str(small_library).encode() not in found
    assert "Traceback" not in caplog.text and not [each for each in caplog.records if each.levelname == "ERROR"]
    picture = (small_library / "pictures" / "star" / "star_003.jpg").read_bytes()
    answer = served.client.post("/api/search", content=picture, headers={"content-type": "image/jpeg"})
    assert answer.json()["hits"][0]["key"] == "star/star_003.jpg"


def test_answers_are_as_they_are_described(served: Served) -> None:
    """What schemathesis makes up for each operation, right and wrong, has an answer that the description knows."""
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{served.port}/api/openapi.json")
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    asked = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            @hypothesis.settings(
                max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
            )
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def holds(case: schemathesis.Case) -> None:
                case.call_and_validate(checks=checks, timeout=30)
                asked.add(case.operation.path)

            # Nothing can be wrong about an operation that takes nothing.
            with contextlib.suppress(hypothesis.errors.Unsatisfiable):
                holds()
    assert asked >= {"/api/search", "/api/images/{number}", "/api/images/{number}/thumb", "/api/random", "/api/map"}
