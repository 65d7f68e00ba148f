"""Who asks, what they may do, and how much: one guard for all ports and protocols of a process.

A protocol's edge does three things with it:

    call = guard.call(rights, authorization=..., certificate=..., time_remaining=...)
    call.message_bytes = size of the message as it travelled
    leave = call.enter(message)
    try: ... finally: leave()

`authorization` is the header's value ("Bearer ..."), `certificate` the names in the client's
certificate that TLS has verified (SAN first, then CN), empty without one. For gRPC `chassis.edge`
does it, before the message is received; in a stream the servicer enters each message (see
`Call.enter`). `rights` says what the method takes; `rights_of` knows every method of ours.

Without an auth file everybody is the identity "" (or the first name in their certificate, where
TLS asks for one) with the default quota. The auth file is read again when it changes and on
SIGHUP; a wrong one is told in the log and the old one goes on.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import Counter

from chassis.call import Call, Leave, nothing
from chassis.errors import (
    HeadraceError,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
)
from chassis.identities import CONTROL, INFER, Identities, Identity, read_identities
from chassis.policy.quota import Meter, Quota
from chassis.telemetry import REGISTRY, logger

log = logger(__name__)

LOOK_S = 1.0
INFERENCE_SERVICE = "inference.GRPCInferenceService"
FEEDBACK_SERVICE = "headrace.v1.Feedback"
SCHEME = "bearer"
# Fields that name the model a message is about, by the message's name.
_MODEL_FIELDS = {
    "inference.ModelInferRequest": "model_name",
    "inference.ModelReadyRequest": "name",
    "inference.ModelMetadataRequest": "name",
    "inference.ModelConfigRequest": "name",
    "inference.ModelStatisticsRequest": "name",
    "inference.RepositoryModelLoadRequest": "model_name",
    "inference.RepositoryModelUnloadRequest": "model_name",
    "inference.TraceSettingRequest": "model_name",
    "headrace.v1.ReportRequest": "model",
}
# Roles where nobody is asked who they are.
_ANYBODYS = frozenset({INFER})
_ANYBODYS_WITH_CONTROL = frozenset({INFER, CONTROL})
_READS = ("Get", "List", "Watch")

REFUSED = Counter(
    "headrace_refused", "Requests refused by the guard", ["identity", "reason"], registry=REGISTRY
)


@dataclass(frozen=True, slots=True)
class Rights:
    """What a method takes: the role it needs ("" is none), and whether the port gives control.

    `control` holds where nobody is asked who they are; identities bring their own.
    """

    role: str = ""
    control: bool = False
    # Whether anybody may, known or not, as often as they like: what probes ask.
    open: bool = False


def rights_of(service: str, method: str, control: bool) -> Rights:
    """Inference and scores of its answers need `infer`, what changes anything else `control`.

    Probes are open. The inference service's other RPCs look at `Call.control` themselves.
    """
    if service == INFERENCE_SERVICE and method in ("ServerLive", "ServerReady"):
        return Rights(open=True)
    if service == INFERENCE_SERVICE:
        role = INFER if method in ("ModelInfer", "ModelStreamInfer") else ""
        return Rights(role, control)
    if service == FEEDBACK_SERVICE:
        return Rights(INFER, control)
    # Whoever reaches these ports may use them, unless identities are asked for.
    return Rights("" if method.startswith(_READS) else CONTROL, True)


class Guard:
    """Belongs to the running loop; `start` begins to watch the auth file, the constructor reads it.

    Raises InvalidArgument (BAD_AUTH_FILE).
    """

    def __init__(
        self,
        auth_file: Path | None = None,
        default_quota: Quota | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = auth_file
        self._seen = _stamp(auth_file)
        self._identities = read_identities(auth_file) if auth_file else None
        # Counts what was read, so that calls that go on know when to look again.
        self.reading = 0
        self._default = default_quota or Quota()
        self._clock = clock
        self._meters: dict[str, Meter] = {}
        self._watching: asyncio.Task[None] | None = None
        self._servers = 0

    @property
    def asks(self) -> bool:
        """Whether callers must say who they are."""
        return self._identities is not None

    @property
    def certificates(self) -> bool:
        """Whether an identity may come by certificate alone."""
        return self._identities is not None and self._identities.certificates

    def call(
        self,
        rights: Rights,
        *,
        authorization: str | None = None,
        certificate: Sequence[str] = (),
        time_remaining: Callable[[], float | None],
    ) -> Call:
        """The call of whoever asks. Raises Unauthenticated, PermissionDenied (ROLE_MISSING)."""
        if rights.open:
            return Call(time_remaining=time_remaining)
        caller = _Caller(self, rights, authorization, certificate)
        identity = caller.identity
        return Call(
            identity.name,
            control=CONTROL in identity.roles,
            time_remaining=time_remaining,
            enter=caller.enter,
            may_use=caller.may_use,
        )

    def identify(
        self, rights: Rights, authorization: str | None, certificate: Sequence[str]
    ) -> Identity:
        """Who asks and has the role. Raises Unauthenticated, PermissionDenied (ROLE_MISSING)."""
        try:
            identity = self._identity(rights, authorization, certificate)
        except HeadraceError as error:
            REFUSED.labels("", error.reason).inc()
            raise
        if rights.role and rights.role not in identity.roles:
            REFUSED.labels(identity.name, "ROLE_MISSING").inc()
            raise PermissionDenied(
                "ROLE_MISSING", f"identity {identity.name!r} lacks the role {rights.role!r}"
            )
        return identity

    def enter(self, identity: Identity, message: Any, size_bytes: int) -> Leave:
        """As `Call.enter`."""
        model = _model_of(message)
        if model and not identity.may_use(model):
            REFUSED.labels(identity.name, "MODEL_NOT_ALLOWED").inc()
            raise PermissionDenied(
                "MODEL_NOT_ALLOWED", f"identity {identity.name!r} may not use model {model[:128]!r}"
            )
        meter = self._meter(identity)
        if meter is None:
            return nothing
        refusal = meter.enter(size_bytes, now=self._clock())
        if refusal is None:
            return meter.leave
        REFUSED.labels(identity.name, refusal.reason).inc()
        raise ResourceExhausted(
            refusal.reason,
            f"the quota of {_shown(identity.name)} is used up: {refusal.sentence}",
            retry_after_s=refusal.retry_after_s,
        )

    def start(self) -> None:
        """Watches the auth file until as many `stop`s as `start`s have come."""
        self._servers += 1
        if self._file is not None and self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Ends what `start` began."""
        self._servers -= 1
        if self._servers == 0 and self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None

    def _identity(
        self, rights: Rights, authorization: str | None, certificate: Sequence[str]
    ) -> Identity:
        if self._identities is None:
            name = certificate[0] if certificate else ""
            return Identity(name, _ANYBODYS_WITH_CONTROL if rights.control else _ANYBODYS)
        if authorization is not None:
            return _by_token(self._identities, authorization)
        found = self._identities.of_certificate(certificate)
        if found is None:
            raise Unauthenticated(
                "NO_CREDENTIALS",
                "who asks is not known: send `authorization: Bearer TOKEN`"
                + (" or another client certificate" if certificate else ""),
            )
        return found

    def _meter(self, identity: Identity) -> Meter | None:
        quota = self._default if identity.quota is None else identity.quota
        meter = self._meters.get(identity.name)
        if meter is None:
            if quota.unbounded:
                return None
            meter = self._meters[identity.name] = Meter(quota, now=self._clock())
        elif meter.quota is not quota:
            meter.change(quota, now=self._clock())
        return meter

    async def _watch(self) -> None:
        hangup = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, hangup.set)
        try:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(hangup.wait(), LOOK_S)
                asked = hangup.is_set()
                hangup.clear()
                await self.look(asked=asked)
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    async def look(self, *, asked: bool = False) -> None:
        """Reads the auth file again if it changed, or if somebody asked for it."""
        file = self._file
        if file is None:
            return
        stamp = await asyncio.to_thread(_stamp, file)
        if stamp == self._seen and not asked:
            return
        self._seen = stamp
        try:
            self._identities = await asyncio.to_thread(read_identities, file)
        except HeadraceError as error:
            log.error("auth file refused, the old one goes on", error=error.message)
        else:
            self.reading += 1
            log.info("auth file read", identities=len(self._identities.names))


class _Caller:
    """Who asked when the call began; asked again after each reading of the auth file."""

    __slots__ = ("_authorization", "_certificate", "_guard", "_reading", "_rights", "identity")

    def __init__(
        self, guard: Guard, rights: Rights, authorization: str | None, certificate: Sequence[str]
    ) -> None:
        self._guard = guard
        self._rights = rights
        self._authorization = authorization
        self._certificate = certificate
        self._identify()

    def enter(self, message: Any, size_bytes: int) -> Leave:
        if self._reading != self._guard.reading:
            # A stream may outlive the right to it.
            self._identify()
        return self._guard.enter(self.identity, message, size_bytes)

    def may_use(self, model: str) -> bool:
        return self.identity.may_use(model)

    def _identify(self) -> None:
        self._reading = self._guard.reading
        self.identity = self._guard.identify(self._rights, self._authorization, self._certificate)


def _by_token(identities: Identities, authorization: str) -> Identity:
    scheme, _, token = authorization.partition(" ")
    found = identities.of_token(token.strip()) if scheme.lower() == SCHEME else None
    if found is None:
        raise Unauthenticated(
            "BAD_TOKEN", "the authorization header does not hold a known bearer token"
        )
    return found


def _model_of(message: Any) -> str:
    descriptor = getattr(message, "DESCRIPTOR", None)
    field = _MODEL_FIELDS.get(descriptor.full_name) if descriptor is not None else None
    return getattr(message, field) if field else ""


def _shown(name: str) -> str:
    return f"identity {name!r}" if name else "callers without an identity"


def _stamp(file: Path | None) -> tuple[int, int, int] | None:
    """Changes when the file does: a mounted secret is a link that turns to another file."""
    if file is None:
        return None
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
