"""Who may ask: names, origins, tokens; and what every answer carries."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from streamer.serving.hosts import HostList, is_loopback
from tests.serving.conftest import Served

TOKEN = '+/#&%;="\\,?~a-token-that-nobody-guesses'


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:{port}", True),
        ("localhost:{port}", True),
        ("LOCALHOST", True),
        ("[::1]:{port}", True),
        ("photos.home:80", True),
        ("evil.example", False),
        ("evil.example:{port}", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("localhost:80@evil.example", False),
        ("", False),
    ],
)
def test_only_its_own_names_are_answered_to(serve_all: Served, host: str, allowed: bool) -> None:
    answer = serve_all.client.get("/api/info", headers={"host": host.format(port=serve_all.port), **BEARER})
    assert answer.status_code == (200 if allowed else 421)
    if not allowed:
        assert answer.json()["error"]["code"] == "wrong_host"


BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def serve_all(small_library: Path):  # type: ignore[no-untyped-def]
    """The library with a token and a further name."""
    from tests.serving.conftest import serving

    with serving(small_library / "photos.store", token=TOKEN, allowed_hosts=("photos.home",)) as served:
        yield served


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:{port}"}, 200),
        ({"origin": "http://127.0.0.1:{port}", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "http://localhost:{port}"}, 403),  # it asked for 127.0.0.1
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
    ],
)
def test_pages_of_other_sites_cannot_search(served: Served, headers: dict[str, str], status: int) -> None:
    sent = {name: value.format(port=served.port) for name, value in headers.items()}
    assert served.client.post("/api/search", json={"id": 1}, headers=sent).status_code == status


def test_pages_of_other_sites_cannot_read_but_may_link(served: Served) -> None:
    foreign = {"sec-fetch-site": "cross-site"}
    assert served.client.get("/api/map", headers=foreign).status_code == 403
    assert served.client.get("/api/images/1", headers={**foreign, "sec-fetch-mode": "no-cors"}).status_code == 403
    linked = {**foreign, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert served.client.get("/api/images/1", headers=linked).status_code == 200
    framed = {**linked, "sec-fetch-dest": "iframe"}
    assert served.client.get("/api/images/1", headers=framed).status_code == 403
    for path in ("/api/duplicates", "/api/map", "/api/images/1/thumb", "/api/random", "/api/images/1/info"):
        for headers in (linked, framed):  # a page must not start long work by leading there
            assert served.client.get(path, headers=headers).status_code == 403, path


def test_nothing_of_the_library_without_the_token(serve_all: Served) -> None:
    client = serve_all.client
    paths = ("/api/info", "/api/images/1", "/api/images/1/thumb", "/api/map", "/api/openapi.json", "/api", "/none")
    for path in paths:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}, {"cookie": "a=b"}):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", path
    assert client.post("/api/search", json={"id": 1}).status_code == 401
    assert client.get("/api/info", headers={"authorization": b"Bearer \xff\xfe"}).status_code == 401
    assert client.get("/api/health").status_code == 200
    assert client.get("/api/info", headers=BEARER).status_code == 200


def test_the_token_is_remembered_once_it_was_opened(serve_all: Served) -> None:
    client = serve_all.client
    assert client.get("/", params={"token": "wrong"}).status_code == 401
    answer = client.get("/", params={"token": TOKEN})
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie
    pair = answer.headers["set-cookie"].partition(";")[0]
    assert pair.startswith(f"streamer_token_{serve_all.port}=")
    client.cookies.clear()
    assert client.get("/api/info").status_code == 401
    assert client.get("/api/info", headers={"cookie": pair}).status_code == 200
    client.cookies.clear()


def test_every_answer_carries_the_headers(served: Served) -> None:
    for path, status in (("/api/info", 200), ("/api/images/1", 200), ("/none", 404), ("/api/random?count=0", 422)):
        answer = served.client.get(path)
        assert answer.status_code == status
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in answer.headers
    answer = served.client.delete("/api/info")
    assert answer.status_code == 405 and answer.headers["allow"] == "GET"
    assert answer.json()["error"]["code"] == "method_not_allowed"


def test_a_fault_is_told_by_an_id_and_logged_in_full(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr(served.service.library, "photo", fail)
    with caplog.at_level(logging.ERROR, "streamer"):
        answer = served.client.get("/api/images/1")
    error = answer.json()["error"]
    assert answer.status_code == 500 and error["code"] == "internal" and "secret" not in answer.text
    assert f"error {error['id']}" in caplog.text and "a secret of the server" in caplog.text


def test_addresses_open_to_others_are_known() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.4", "", "photos.home")] == [False] * 5
    hosts = HostList("0.0.0.0")
    assert hosts.allows("127.0.0.1:8000") and not hosts.allows("evil.example") and not hosts.allows("127.0.0.1:80:80")
