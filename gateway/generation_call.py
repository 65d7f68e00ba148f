"""One decoupled request on a ModelStreamInfer call of its own.

So the end of the call is the end of the request, cancelling one cancels the other, and what the
caller does not read stays in the replica by HTTP/2's flow control. The replica is always asked for
an empty last response: it then sends each one at once, and keeping one back for a caller that wants
the last one marked is the caller's stream's affair.
"""

from __future__ import annotations

from collections.abc import Callable

import grpc

from chassis.edge import Stub, error_from_rpc
from chassis.errors import HeadraceError, Unavailable
from chassis.stream_errors import EMPTY_FINAL_PARAMETER, FINAL_PARAMETER
from gateway.dispatch.delivery import Ended, Failure, Listener, Outcome, lost
from gateway.ingress.generation import Generation
from gateway.policy.retry import Fault
from gateway.wire import (
    batch_message,
    call_failure,
    read_response,
    stream_failure,
)
from protos.inference import grpc_service_pb2 as oip


class GenerationCall:
    """Made for one attempt; `on_heard` is called for every message of the replica."""

    def __init__(
        self,
        stub: Stub,
        delivery_id: int,
        generation: Generation,
        listener: Listener,
        on_heard: Callable[[], None],
    ) -> None:
        self._stub = stub
        self._delivery_id = delivery_id
        self._generation = generation
        self._listener = listener
        self._on_heard = on_heard
        # The version that answers, and whether the server marks what is not the last.
        self._version = ""
        self._marks = False

    async def run(self, timeout_s: float) -> Outcome:
        """Hands on every response and returns how it ended; cancelled, it cancels the call."""
        message = batch_message(self._generation, self._delivery_id, timeout_s)
        message.parameters[EMPTY_FINAL_PARAMETER].bool_param = True
        call = self._stub.ModelStreamInfer([message], timeout=timeout_s)
        try:
            async for reply in call:
                outcome = self._take(reply)
                if outcome is not None:
                    return outcome
                if self._generation.full:
                    await self._generation.wait_room()
                    self._listener.on_resumed(self._delivery_id)
        except grpc.RpcError as error:
            return _failure(error_from_rpc(error))
        finally:
            call.cancel()
        return self._end_of_call()

    def _take(self, message: oip.ModelStreamInferResponse) -> Outcome | None:
        """How the request ended with this message, None if it goes on."""
        self._on_heard()
        if message.error_message:
            return stream_failure(message) or _unexplained()
        response = message.infer_response
        marked = FINAL_PARAMETER in response.parameters
        final = marked and response.parameters[FINAL_PARAMETER].bool_param
        self._marks |= marked
        if response.outputs or not final:
            reply = read_response(response, self._generation, self._version)
            if isinstance(reply, Failure):
                return reply
            self._version = reply.version
            self._listener.on_response(self._delivery_id, reply)
        return Ended(self._version or response.model_version) if final else None

    def _end_of_call(self) -> Outcome:
        """The server closed the call in peace; ours say so first, and mark every response."""
        if self._version and not self._marks:
            return Ended(self._version)
        return lost()


def _failure(error: HeadraceError) -> Failure:
    if error.code is grpc.StatusCode.UNIMPLEMENTED:
        # Another replica of the model may have what this one lacks.
        missing = Unavailable("NO_STREAMS", "the replica cannot stream responses")
        return Failure(missing, Fault.REFUSED)
    return call_failure(error)


def _unexplained() -> Failure:
    return Failure(
        Unavailable("REPLICA_ERROR", "the replica failed to compute the answer"), Fault.DEFECT
    )
