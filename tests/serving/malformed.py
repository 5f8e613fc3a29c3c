"""Requests that no client should send, drawn by a seed: as bytes for a bare socket."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

__all__ = ["malformed_requests"]

_TYPES = [b"image/jpeg", b"image/png", b"application/octet-stream"]
_PATHS = [
    b"/api/images/../../etc/passwd",
    b"/static/../app.py",
    b"/static/..%2f..%2fapp.py",
    b"/static/%2e%2e/app.py",
    b"/static/C:%5Cwindows%5Cwin.ini",
    b"/static/" + b"a" * 300,
    b"/api/images/%00",
    b"/api/images/1%00.jpg",
    b"/api/images/-1/thumb",
    b"/api/images/1/../../../x",
    b"/api/images/99999999999999999999999/info",
    b"//etc/passwd",
    b"/%ff%fe",
    b"*",
    b"http://evil.example/api/info",
    b"/api/random?count=1e9",
    b"/api/random?seed=-1",
    b"/api/random?label=%ff%00",
    b"/api/duplicates?threshold=nan",
    b"/api/duplicates?threshold=1e-300&limit=0",
    b"/?token=" + b"x" * 600,
]
_QUESTIONS = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"id"',
    b"\xff\xfe\x00",
    b"[" * 50_000,
    b'{"id":' * 5000,
    b'{"id": NaN}',
    b'{"id": 1e400}',
    b'{"id": -1}',
    b'{"id": 1.5}',
    b'{"id": "1"}',
    b'{"id": true}',
    b'{"key": ""}',
    b'{"id": 1, "k": 1000000000}',
    b'{"key": "\\ud800"}',
    b'{"key": "\\u0000"}',
    b'{"id": 1, "label": ["a"]}',
    b'{"id": 1, "__proto__": {}}',
    json.dumps({"key": "../" * 500}).encode(),
    json.dumps({"key": "http://127.0.0.1/"}).encode(),
    json.dumps({"id": 1, "label": "' OR 1=1 --"}).encode(),
]


def malformed_requests(count: int, seed: int, port: int) -> Iterator[tuple[str, bytes, bool]]:
    """Draw requests.

    Yields
    ------
    kind : str
    data : bytes
    ends : bool
        Whether the request is complete: otherwise the server is to wait for more, and to give up in time.
    """
    chance = np.random.default_rng(seed)
    host = b"host: 127.0.0.1:%d\r\n" % port
    picture = _picture("JPEG")
    kinds: list[Callable[[np.random.Generator, bytes, bytes], tuple[bytes, bool]]] = [
        *(_fuzzed, _cut, _bomb, _wrong_length, _bad_json, _path, _huge_headers, _bad_chunks, _noise, _odd_method),
    ]
    for _ in range(count):
        kind = kinds[chance.integers(len(kinds))]
        data, ends = kind(chance, host, picture)
        yield kind.__name__.strip("_"), data, ends


def _post(host: bytes, body: bytes, media_type: bytes = b"image/jpeg", length: int | None = None) -> bytes:
    announced = len(body) if length is None else length
    return (
        b"POST /api/search HTTP/1.1\r\n%bcontent-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        % (host, media_type, announced)
        + body
    )


def _picture(format_name: str, side: int = 64) -> bytes:
    file = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(values).save(file, format_name)
    return file.getvalue()


def _fuzzed(chance: np.random.Generator, host: bytes, picture: bytes) -> tuple[bytes, bool]:
    name = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")[chance.integers(6)]
    body = bytearray(_picture(name))
    for place in chance.integers(0, len(body), chance.integers(1, 60)):
        body[place] = chance.integers(256)
    return _post(host, bytes(body), _TYPES[chance.integers(3)]), True


def _cut(chance: np.random.Generator, host: bytes, picture: bytes) -> tuple[bytes, bool]:
    name = ("JPEG", "PNG", "WEBP", "GIF", "TIFF")[chance.integers(5)]
    body = _picture(name)
    return _post(host, body[: chance.integers(0, len(body))]), True


def _bomb(chance: np.random.Generator, host: bytes, picture: bytes) -> tuple[bytes, bool]:
    side = int(chance.choice([9_000, 30_000, 2**31 - 1]))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )
    return _post(host, png, b"image/png"), True


def _wrong_length(chance: np.random.Generator, host: bytes, picture: bytes) -> tuple[bytes, bool]:
    length = int(chance.choice([len(picture) + 1000, 10, 2**33, 2**70]))
    return _post(host, picture, length=length), length < len(picture) or length > 2**30


def _bad_json(chance: np.random.Generator, host: bytes, picture: bytes) -> tuple[bytes, bool]:
    return _post(host, _QUESTIONS[chance.integers(len(_QUESTIONS))], b"application/json"), True


def _path(chance: np.random.Generator, host: bytes, picture: bytes) -> tuple[bytes, bool]:
    return b"GET %b HTTP/1.1\r\n%bconnection: close\r\n\r\n" % (_PATHS[chance.integers(len(_PATHS))], host), True


def _huge_headers(chance: np.random.Generator, host: bytes, picture: bytes) -> tuple[bytes, bool]:
    many = b"".join(b"x-%d: %b\r\n" % (number, b"y" * 100) for number in range(chance.integers(200, 2000)))
    return b"GET / HTTP/1.1\r\n%b%bcookie: %b\r\n\r\n" % (host, many, b"a=b;" * 2000), True


def _bad_chunks(chance: np.random.Generator, host: bytes, picture: bytes) -> tuple[bytes, bool]:
    head = b"POST /api/search HTTP/1.1\r\n%bcontent-type: image/jpeg\r\ntransfer-encoding: chunked\r\n\r\n" % host
    endings = [b"zz\r\n", b"-1\r\n", b"ffffffffffffffff\r\n", b"5\r\nhelloXX", b"10000000\r\n" + picture]
    number = chance.integers(len(endings))
    return head + endings[number], number not in (2, 4)


def _noise(chance: np.random.Generator, host: bytes, picture: bytes) -> tuple[bytes, bool]:
    return chance.bytes(int(chance.integers(1, 3000))) + b"\r\n\r\n", False


def _odd_method(chance: np.random.Generator, host: bytes, picture: bytes) -> tuple[bytes, bool]:
    methods = (b"PUT", b"DELETE", b"OPTIONS", b"HEAD", b"TRACE", b"CONNECT", b"G\xc3\xab", b"PRI", b"x" * 200)
    method = methods[chance.integers(len(methods))]
    body = chance.bytes(10)
    return b"%b /api/search HTTP/1.1\r\n%bcontent-length: 10\r\nconnection: close\r\n\r\n%b" % (
        method,
        host,
        body,
    ), True
