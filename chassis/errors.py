"""The error categories and the one table that maps them to gRPC status codes.

Code raises a category with a machine-readable reason and a sentence for a person; `chassis.edge`
turns it into a status at the edge. A sentence names the input at fault and what was expected; it
never holds a path, a traceback or an internal name. Inside a policy a refusal is a value, not an
exception.
"""

from __future__ import annotations

import grpc


class HeadraceError(Exception):
    """Base of every error that may reach a caller.

    `reason` is UPPER_SNAKE and stable (google.rpc.ErrorInfo); `message` is a sentence; `field`
    is the path of the request's field at fault, such as `inputs[0].shape`, empty where none is;
    `retry_after_s` is how many seconds a caller should wait before it asks again, None where
    waiting alone does not help.
    """

    code: grpc.StatusCode = grpc.StatusCode.INTERNAL

    def __init__(
        self, reason: str, message: str, *, field: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        known = (self.reason, self.message, self.field, self.retry_after_s)
        return (_rebuild, (type(self), *known))


def _rebuild(
    kind: type[HeadraceError], reason: str, message: str, field: str, retry_after_s: float | None
) -> HeadraceError:
    return kind(reason, message, field=field, retry_after_s=retry_after_s)


class InvalidArgument(HeadraceError):
    """The caller's input is wrong whatever the state of the system."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(HeadraceError):
    """A model, version, channel, run or blob that is named does not exist."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(HeadraceError):
    """The name is taken by something else."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(HeadraceError):
    """The state of the system does not allow it; repeating it alone will not help."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(HeadraceError):
    """A compare-and-set lost to another writer; read again, then repeat."""

    code = grpc.StatusCode.ABORTED


class ResourceExhausted(HeadraceError):
    """A bound was reached: queue, bytes, quota, message size."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceeded(HeadraceError):
    """The deadline passed before an answer was there."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unavailable(HeadraceError):
    """Nothing can serve this now; repeating it later may help."""

    code = grpc.StatusCode.UNAVAILABLE


class Unauthenticated(HeadraceError):
    """Nobody known asks: no credentials, or wrong ones."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(HeadraceError):
    """Whoever asks may not have this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Unimplemented(HeadraceError):
    """The protocol has it, this server does not."""

    code = grpc.StatusCode.UNIMPLEMENTED


class DataLoss(HeadraceError):
    """Stored bytes are not what their digest says."""

    code = grpc.StatusCode.DATA_LOSS


class Internal(HeadraceError):
    """A defect of ours; the message is an opaque id that the log explains."""

    code = grpc.StatusCode.INTERNAL


CATEGORIES: dict[grpc.StatusCode, type[HeadraceError]] = {
    category.code: category
    for category in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        Aborted,
        ResourceExhausted,
        DeadlineExceeded,
        Unavailable,
        Unauthenticated,
        PermissionDenied,
        Unimplemented,
        DataLoss,
        Internal,
    )
}
