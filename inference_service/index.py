"""RepositoryIndex: what is loaded, what could be, and why the rest is not.

From memory where only ready versions are asked for: gateways do so four times a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chassis.errors import HeadraceError
from chassis.telemetry import logger
from inference_service.repository import Repository
from inference_service.served import ServedModel
from inference_service.served_snapshot import LoadFailure
from inference_service.slot import SlotState
from protos.inference import grpc_service_pb2 as oip

log = logger(__name__)

READY = "READY"
UNAVAILABLE = "UNAVAILABLE"
# How Triton's clients call what a slot is doing.
_STATES = {
    SlotState.LOADING: "LOADING",
    SlotState.SERVING: READY,
    SlotState.STANDBY: READY,
}
# version, state, reason
Entry = tuple[str, str, str]


def ready_index(repository: Repository) -> oip.RepositoryIndexResponse:
    """The versions that would answer now, and which part each has."""
    reply = oip.RepositoryIndexResponse()
    for name, served in sorted(repository.models.items()):
        for version in ready_versions(served):
            _tell_part(reply.models.add(name=name, version=version, state=READY), served)
    return reply


async def whole_index(repository: Repository) -> oip.RepositoryIndexResponse:
    """Every model served or in the store, its newest stored versions included.

    While the store does not answer, only what this process knows itself.
    """
    stored = await _stored(repository)
    reply = oip.RepositoryIndexResponse()
    names = {*repository.models, *repository.arriving, *repository.absent, *stored}
    for name in sorted(names):
        served = repository.models.get(name)
        for version, state, reason in _entries(repository, name, stored.get(name, ())):
            entry = reply.models.add(name=name, version=version, state=state, reason=reason)
            if served is not None and state == READY:
                _tell_part(entry, served)
    return reply


def ready_versions(served: ServedModel) -> list[str]:
    """The versions of a model that would answer, ascending."""
    # Also the one of a slot that is closed for an installation: what asks for it waits a little.
    versions = {slot.version for slot in served.slots.snapshot()}
    ready = [version for version in versions if served.slots.holds(version)]
    return [str(version) for version in sorted(ready)]


def _tell_part(entry: oip.RepositoryIndexResponse.ModelIndex, served: ServedModel) -> None:
    """Which part a version has that is ready: to answer everybody, to be on trial, or none."""
    serving, candidate = served.slots.serving, served.candidate
    record = served.candidate_record
    entry.candidates_revision = 0 if record is None else record.revision
    if serving is not None and entry.version == serving.version_text:
        entry.revision = serving.revision
    elif candidate is not None and entry.version == str(candidate.version):
        entry.rollout.share, entry.rollout.shadow = candidate.share, candidate.shadow
        entry.rollout.revision, entry.rollout.stage = candidate.revision, candidate.stage
        entry.rollout.metric = candidate.metric


async def _stored(repository: Repository) -> dict[str, list[int]]:
    try:
        return await repository.newest_stored()
    except HeadraceError as error:
        log.warning("index without the model store", reason=error.reason, message=error.message)
        return {}


def _entries(repository: Repository, name: str, stored: Sequence[int]) -> list[Entry]:
    served = repository.models.get(name) or repository.arriving.get(name)
    if served is not None:
        known = dict(_of_served(served))
        reason = "not loaded"
    else:
        known = {}
        absent = repository.absent.get(name)
        reason = "unloaded" if absent is not None and absent.failure is None else "not loaded"
        if absent is not None and absent.failure is not None:
            known[absent.failure.version] = _failed(absent.failure)
    for version in stored:
        known.setdefault(version, (UNAVAILABLE, reason))
    if not known:
        published = "no version is published on the channel yet" if served else reason
        return [("", UNAVAILABLE, published)]
    return [(str(version), *known[version]) for version in sorted(known)]


def _of_served(served: ServedModel) -> Iterator[tuple[int, tuple[str, str]]]:
    snapshot = served.snapshot()
    # The newest failure of a version comes first and must stay; a slot that holds it knows better.
    for failure in reversed(snapshot.failures):
        yield failure.version, _failed(failure)
    for slot in snapshot.slots:
        if slot.version:
            ready = served.slots.holds(slot.version)
            yield slot.version, (READY if ready else _STATES[slot.state], "")


def _failed(failure: LoadFailure) -> tuple[str, str]:
    return UNAVAILABLE, f"{failure.reason}: {failure.message}"
