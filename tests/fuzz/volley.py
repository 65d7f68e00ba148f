"""Fires shots at a server, many at once, and counts how each ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import grpc
from google.rpc import status_pb2
from tritonclient.grpc import service_pb2

from tests.fuzz.http_volley import send
from tests.fuzz.shot import PATIENCE_S, SERVICE, Shot
from tests.fuzz.tally import Tally

CONNECTIONS = 2
# Below the servers' bound of streams on one connection.
CALLS_PER_CONNECTION = 24

# What grpc itself answers, without a reason of ours: too large headers or messages, a server that
# has no room for another stream.
_UNTYPED = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
_OWN_END = {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
# What grpc.aio's client makes of its own cancel or deadline while it writes to a stream.
_GAVE_UP = "Internal error from Core"


async def fire(
    server: str, address: str, http_port: int, shots: Iterator[Shot], tally: Tally
) -> None:
    """Sends all of `shots` to one server; returns when each has ended."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
    ]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(CONNECTIONS)]
    try:
        async with asyncio.TaskGroup() as group:
            for channel in channels:
                for _ in range(CALLS_PER_CONNECTION):
                    group.create_task(_gun(server, channel, http_port, shots, tally))
    finally:
        for channel in channels:
            await channel.close()


async def _gun(
    server: str,
    channel: grpc.aio.Channel,
    http_port: int,
    shots: Iterator[Shot],
    tally: Tally,
) -> None:
    for shot in shots:
        tally.shots += 1
        if shot.method == "HTTP":
            await send(server, http_port, shot, tally)
            continue
        try:
            replies = await (_streamed if shot.streams else _unary)(channel, shot)
        except grpc.RpcError as error:
            _count_refusal(server, shot, error, tally)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Our own cancel, or the server's that saw a tiny deadline before we did.
            tally.add(server, "gRPC", "CANCELLED", shot.label, "")
            if not shot.hasty:
                tally.accuse(f"{server} cancelled {shot.label}")
        else:
            tally.add(server, "gRPC", "OK", shot.label, "")
            for reply in replies if shot.streams else ():
                _count_reply(server, shot, reply, tally)


async def _unary(channel: grpc.aio.Channel, shot: Shot) -> list[bytes]:
    method = channel.unary_unary(f"/{SERVICE}/{shot.method}")
    call = method(shot.frames[0], timeout=shot.timeout_s, metadata=shot.metadata)
    _cancel_later(call, shot)
    return [await call]


async def _streamed(channel: grpc.aio.Channel, shot: Shot) -> list[bytes]:
    method = channel.stream_stream(f"/{SERVICE}/{shot.method}")
    if shot.parses:
        call = method(iter(shot.frames), timeout=shot.timeout_s, metadata=shot.metadata)
        _cancel_later(call, shot)
        return [reply async for reply in call]
    call = method(timeout=shot.timeout_s, metadata=shot.metadata)
    return await _in_turn(call, shot.frames)


async def _in_turn(call: grpc.aio.StreamStreamCall, frames: Sequence[bytes]) -> list[bytes]:
    """Each frame after the answer to the one before.

    A frame that does not parse ends the stream, and grpc.aio's client forgets the server's status
    for an INTERNAL of its own where it is writing at that moment.
    """
    replies = []
    for frame in frames:
        await call.write(frame)
        reply = await call.read()
        if reply is grpc.aio.EOF:
            break
        replies.append(reply)
    else:
        await call.done_writing()
        while (reply := await call.read()) is not grpc.aio.EOF:
            replies.append(reply)
    if await call.code() is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            await call.code(),
            await call.initial_metadata(),
            await call.trailing_metadata(),
            await call.details(),
        )
    return replies


def _cancel_later(call: grpc.aio.Call, shot: Shot) -> None:
    if shot.cancel_after_s is not None:
        asyncio.get_running_loop().call_later(shot.cancel_after_s, call.cancel)


def _count_refusal(server: str, shot: Shot, error: grpc.RpcError, tally: Tally) -> None:
    code = error.code()
    if shot.hasty and error.details() == _GAVE_UP:
        code = grpc.StatusCode.CANCELLED
    tally.add(server, "gRPC", code.name, shot.label, error.details() or "")
    reason = _reason(error)
    if reason:
        tally.reasons[reason] += 1
        return
    if code in _OWN_END:
        if not shot.hasty:
            tally.accuse(f"{server} gave no answer in {PATIENCE_S:g} s to {shot.label}")
    elif code not in _UNTYPED:
        tally.accuse(f"{server} {code.name} without a reason: {error.details()!r} by {shot.label}")


def _reason(error: grpc.RpcError) -> str:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            details = status_pb2.Status.FromString(value).details
            return details[0].type_url.rpartition("/")[2] if details else ""
    return ""


def _count_reply(server: str, shot: Shot, content: bytes, tally: Tally) -> None:
    reply = service_pb2.ModelStreamInferResponse.FromString(content)
    parameters = reply.infer_response.parameters
    if not reply.error_message:
        tally.add(server, "in a stream", "OK", shot.label, "")
    elif "headrace_code" in parameters:
        code = parameters["headrace_code"].string_param
        tally.add(server, "in a stream", code, shot.label, reply.error_message)
    else:
        tally.accuse(f"{server}: an error in a stream without a code by {shot.label}")
