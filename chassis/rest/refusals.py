"""Errors as HTTP tells them: a status, and a JSON body with the sentence, the code and the reason.

`REQUEST_STATUS` holds what HTTP names more exactly than a gRPC code does.
"""

from __future__ import annotations

import math
import uuid

import grpc
import orjson

from chassis.errors import HeadraceError, Internal, InvalidArgument
from chassis.telemetry import logger

log = logger(__name__)

Headers = list[tuple[bytes, bytes]]

CODE_STATUS: dict[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 412,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
REASON_STATUS: dict[str, int] = {
    "METHOD_NOT_ALLOWED": 405,
    "REQUEST_TIMEOUT": 408,
    "BODY_TOO_LARGE": 413,
    "JSON_TOO_LARGE": 413,
    "UNSUPPORTED_ENCODING": 415,
    "HEADERS_TOO_LARGE": 431,
    "TOO_MANY_CONNECTIONS": 503,
}
INTERNAL = 500


def refusal_of(name: str, error: Exception) -> HeadraceError:
    """What a caller of `name` is told of `error`; what is a defect of ours is told to the log."""
    if isinstance(error, HeadraceError):
        return error
    if isinstance(error, UnicodeEncodeError):
        # A lone surrogate, which only JSON's escapes can write.
        return InvalidArgument("MALFORMED_JSON", "the body holds a text that is not Unicode")
    error_id = uuid.uuid4().hex[:12]
    log.error("handler failed", method=name, error_id=error_id, exc_info=error)
    return Internal("INTERNAL", f"internal error {error_id}")


def status_of(error: HeadraceError) -> int:
    """The HTTP status of an error."""
    return REASON_STATUS.get(error.reason) or CODE_STATUS.get(error.code, INTERNAL)


def error_body(error: HeadraceError) -> bytes:
    """{"error": sentence, "code", "reason"}, and "field" where one is at fault."""
    told = {"error": error.message, "code": error.code.name, "reason": error.reason}
    if error.field:
        told["field"] = error.field
    return dumped(told)


def dumped(value: object) -> bytes:
    """JSON of what messages hold, arrays included; a text that is no Unicode shows what can be."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError:
        return orjson.dumps(_replaced(value))


def _replaced(value: object) -> object:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {str(_replaced(key)): _replaced(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replaced(item) for item in value]
    return value


def error_headers(error: HeadraceError) -> Headers:
    """Retry-After in whole seconds, at least one; how to authenticate, where nobody did."""
    headers = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()))
    if error.code is grpc.StatusCode.UNAUTHENTICATED:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def raw_response(error: HeadraceError, status_line: bytes) -> bytes:
    """A whole response that ends its connection, for where no application answers."""
    body = error_body(error)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *error_headers(error),
    ]
    lines = [name + b": " + value + b"\r\n" for name, value in headers]
    return b"".join([status_line, *lines, b"\r\n", body])
