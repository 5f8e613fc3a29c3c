"""Errors as clients see them: a status, a code, a message, and an id under which the log says more."""

from __future__ import annotations

import json
import secrets

from pydantic import BaseModel

__all__ = ["ErrorAnswer", "ErrorDetail", "Refusal", "new_error_id", "refusal_body"]

_CODES = {
    400: "bad_request",
    401: "token_needed",
    403: "foreign_origin",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    410: "gone",
    413: "too_large",
    415: "unsupported_type",
    421: "wrong_host",
    422: "unprocessable",
    431: "headers_too_large",
    500: "internal",
    501: "not_implemented",
    503: "busy",
}


class ErrorDetail(BaseModel):
    """What went wrong: a word for programs, a sentence for people, and an id that the server's log has, too."""

    code: str
    message: str
    id: str


class ErrorAnswer(BaseModel):
    """Every answer that is none."""

    error: ErrorDetail


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """A request that is not answered as it was meant.

    Parameters
    ----------
    status : int
        Of HTTP.
    message : str
        For people; nothing in it comes from the server's own files or paths.
    retry_seconds : int, optional
        After which another try may succeed.
    close : bool
        Whether the rest of the request is not worth reading.
    """

    def __init__(self, status: int, message: str, *, retry_seconds: int | None = None, close: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.close = close
        self.headers: dict[str, str] = {}
        if retry_seconds is not None:
            self.headers["retry-after"] = str(retry_seconds)
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"


def new_error_id() -> str:
    """Eight hexadecimal digits."""
    return secrets.token_hex(4)


def refusal_body(status: int, message: str, error_id: str) -> bytes:
    """The JSON of an error."""
    detail = {"code": _CODES.get(status, "error"), "message": message, "id": error_id}
    return json.dumps({"error": detail}).encode()
