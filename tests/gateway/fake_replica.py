"""A small OIP server in a process of its own: numpy functions instead of a model.

It keeps a device's manner (one batch at a time, l(b) = alpha + beta * b), counts its batches in
ModelStatistics, and misbehaves on request. SIGUSR1 makes it not ready, SIGUSR2 ready again.
The file --trial, JSON read anew each time, says what it holds on trial: see `Trial`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chassis import edge
from chassis.errors import (
    FailedPrecondition,
    HeadraceError,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unimplemented,
)
from chassis.infer import infer_reply
from chassis.inputs import checked_inputs
from chassis.oip import SERVICE, checked_version, config_reply, metadata_reply
from chassis.provenance import Provenance
from chassis.sequences import SequenceId, Step, not_started, sequence_required, step_of
from chassis.server import RpcServer, run, wait_for_stop_signal
from chassis.settings import ProcessSettings
from chassis.telemetry import configure_logs, logger
from chassis.tensors import Padding, Signature, TensorSpec, decode_raw, encode_raw
from protos.inference import grpc_service_pb2 as oip

log = logger(__name__)
# A row whose first value is this makes the whole batch fail; neighbours must not suffer.
POISON = 666.0
CHANNELS = ("stable", "canary")
ERRORS = {"UNAVAILABLE": Unavailable, "INTERNAL": Internal, "INVALID_ARGUMENT": InvalidArgument}


def signatures(max_batch: int, width: int) -> dict[str, Signature]:
    """The models it can serve."""
    spec = TensorSpec
    rows = spec("sum", "FP32", (-1, 1))
    return {
        "sum": Signature(
            (spec("x", "FP32", (-1, width)),), (rows, spec("copy", "FP32", (-1, width))), max_batch
        ),
        "pair": Signature(
            (spec("a", "FP32", (-1, 2)), spec("b", "INT64", (-1, 1))), (rows,), max_batch
        ),
        "seq": Signature((spec("x", "FP32", (-1, -1)),), (rows,), max_batch),
        "text": Signature(
            (spec("t", "BYTES", (-1, 1)),), (spec("upper", "BYTES", (-1, 1)),), max_batch
        ),
        "running": Signature(
            (spec("x", "FP32", (-1, 1)),),
            (spec("total", "FP32", (-1, 1)),),
            max_batch,
            states=(spec("sum", "FP32", (-1, 1)),),
        ),
        "whole": Signature((spec("x", "FP32", (3,)),), (spec("y", "FP32", (3,)),), 0),
        # Filled up to 4 or 8 columns; a column that is filler adds a thousand to the sum.
        "pad": Signature(
            (spec("x", "FP32", (-1, -1)),),
            (rows, spec("copy", "FP32", (-1, -1))),
            max_batch,
            padding=(Padding(1, (4, 8), (("x", 1000.0),), ("copy",)),),
        ),
        "classes": Signature(
            (spec("x", "FP32", (-1, 3)),),
            tuple(spec(name, name, (-1, 3)) for name in ("FP32", "FP16", "BF16", "INT64", "BOOL")),
            max_batch,
            labels=(("FP32", ("cat", "dog")),),
        ),
        # Answers n with 0, 1 .. n-1; a negative n with as many and then an error.
        "count": Signature(
            (spec("n", "INT32", (-1, 1)),),
            (spec("token", "INT32", (-1, 1)), spec("pad", "UINT8", (-1, -1))),
            max_batch,
            decoupled=True,
        ),
    }


def _sum(*arrays: np.ndarray) -> np.ndarray:
    return sum(a.astype(np.float32).sum(axis=1, keepdims=True) for a in arrays)


COMPUTE: dict[str, Callable[..., tuple[np.ndarray, ...]]] = {
    "sum": lambda x: (_sum(x), x),
    "pair": lambda a, b: (_sum(a, b),),
    "seq": lambda x: (_sum(x),),
    "text": lambda t: (np.array([[v[0].upper()] for v in t], dtype=object),),
    "running": lambda x, total: (x + total,),
    "whole": lambda x: (x * 2,),
    "pad": lambda x: (_sum(x), x),
    "classes": lambda x: (
        x,
        x.astype(np.float16),
        (x.view(np.uint32) >> np.uint32(16)).astype(np.uint16),
        x.astype(np.int64),
        x > 0,
    ),
}


@dataclass
class Trial:
    """`candidate` is held beside the version that serves, and on trial while `share` is not None.

    It takes `alpha_s` longer, answers `bias` more, or fails with the status `fail`. `revision` is
    that at which the other version began to serve; 0 is not told.
    """

    candidate: int = 0
    share: float | None = None
    shadow: float = 0.0
    stage: int = 0
    trial_revision: int = 0
    revision: int = 0
    bias: float = 0.0
    alpha_s: float = 0.0
    fail: str = ""


class Replica:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.ready = not options.unready
        every = signatures(options.max_batch, options.width)
        self.models = {name: every[name] for name in options.models.split(",")}
        self.device = asyncio.Lock()
        self.batches: dict[str, Counter[int]] = {name: Counter() for name in every}
        self.failures_left = options.fail_times
        # Of the decoupled model: under way, and responses made.
        self.generating = 0
        self.tokens = 0
        # What `running` has summed up, by sequence.
        self.totals: dict[SequenceId, np.ndarray] = {}

    async def ServerLive(self, _request, _context):
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, _request, _context):
        return oip.ServerReadyResponse(ready=self.ready)

    async def ModelReady(self, request, _context):
        return oip.ModelReadyResponse(ready=self.ready and request.name in self.models)

    async def RepositoryIndex(self, _request, _context):
        if self.options.no_index:
            raise Unimplemented("NOT_IMPLEMENTED", "no index here")
        reply = oip.RepositoryIndexResponse()
        trial = self.trial()
        for name in self.models:
            entry = reply.models.add(name=name, version=str(self.options.version), state="READY")
            entry.revision = trial.revision
            entry.candidates_revision = trial.trial_revision
            if trial.candidate:
                entry = reply.models.add(name=name, version=str(trial.candidate), state="READY")
            if trial.share is not None:
                entry.rollout.share, entry.rollout.shadow = trial.share, trial.shadow
                entry.rollout.revision, entry.rollout.stage = trial.trial_revision, trial.stage
        return reply

    def trial(self) -> Trial:
        path = self.options.trial
        return Trial(**json.loads(path.read_text())) if path and path.exists() else Trial()

    async def ModelMetadata(self, request, _context):
        return metadata_reply(request.name, [str(self.options.version)], self._model(request.name))

    async def ModelConfig(self, request, _context):
        return config_reply(request.name, self._model(request.name))

    async def ModelStatistics(self, request, _context):
        reply = oip.ModelStatisticsResponse()
        for name, sizes in self.batches.items():
            stats = reply.model_stats.add(name=name, version=str(self.options.version))
            if name == "count":
                stats.execution_count, stats.inference_count = self.generating, self.tokens
            for rows, count in sizes.items():
                entry = stats.batch_stats.add(batch_size=rows)
                entry.compute_infer.count = count
        return reply

    async def ModelInfer(self, request, _call):
        return await self._infer(request)

    async def ModelStreamInfer(
        self, requests: AsyncIterator[oip.ModelInferRequest], _context
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        if self.options.no_stream:
            raise Unimplemented("NOT_IMPLEMENTED", "no streams here")
        # Bounded: who makes many responses waits until they are read.
        answers: asyncio.Queue[object] = asyncio.Queue(maxsize=4)
        # No TaskGroup: a generator may be closed at its yield, from another task.
        reader = asyncio.create_task(self._read(requests, answers))
        try:
            while (answer := await answers.get()) is not None:
                yield answer
        finally:
            reader.cancel()

    async def _read(self, requests, answers) -> None:
        async with asyncio.TaskGroup() as tasks:
            async for request in requests:
                tasks.create_task(self._answer(request, answers))
        await answers.put(None)

    async def _answer(self, request, answers) -> None:
        try:
            if request.model_name in self.models and self.models[request.model_name].decoupled:
                await self._generate(request, answers)
                return
            reply = oip.ModelStreamInferResponse(infer_response=await self._infer(request))
        except HeadraceError as error:
            reply = oip.ModelStreamInferResponse(error_message=error.message)
            if not self.options.no_error_id:
                reply.infer_response.id = request.id
            if not self.options.no_codes:
                parameters = reply.infer_response.parameters
                parameters["headrace_code"].string_param = error.code.name
                parameters["headrace_reason"].string_param = error.reason
        await answers.put(reply)

    async def _generate(self, request, answers) -> None:
        self.generating += 1
        try:
            inputs = checked_inputs(request, self._model("count"))
            self._fail_on_request()
            (count,) = np.frombuffer(inputs.raw[0], np.int32)
            for token in range(abs(count)):
                if token == self.options.exit_after:
                    os._exit(9)
                await asyncio.sleep(self.options.token_s if token != self.options.stall_at else 99)
                self.tokens += 1
                await answers.put(self._token(request, token))
            if count < 0:
                raise InvalidArgument("BAD_COUNT", "n is negative")
            final = request.parameters["triton_enable_empty_final_response"].bool_param
            assert final, "the gateway always asks for an empty last response"
            if not self.options.no_marks:
                reply = oip.ModelInferResponse(model_name="count", id=request.id)
                reply.model_version = str(self.options.version)
                reply.parameters["triton_final_response"].bool_param = True
                await answers.put(oip.ModelStreamInferResponse(infer_response=reply))
        finally:
            self.generating -= 1

    def _token(self, request, token: int) -> object:
        one, pad = self.models["count"].outputs
        reply = infer_reply(
            model="count",
            version=str(self.options.version),
            request_id=request.id,
            outputs=[
                (one, (1, 1), np.int32(token).tobytes()),
                (pad, (1, self.options.pad), bytes(self.options.pad)),
            ],
        )
        if not self.options.no_marks:
            reply.parameters["triton_final_response"].bool_param = False
        return oip.ModelStreamInferResponse(infer_response=reply)

    def _fail_on_request(self) -> None:
        if self.failures_left and self.options.fail:
            self.failures_left -= 1
            raise ERRORS[self.options.fail]("ON_REQUEST", "failed on request")

    async def _infer(self, request):
        signature = self._model(request.model_name)
        inputs = checked_inputs(request, signature)
        self.batches[request.model_name][inputs.rows] += 1
        pinned = checked_version(request.model_version)
        trial = self.trial()
        tried = bool(pinned) and pinned == trial.candidate
        if not tried and pinned not in (0, self.options.version):
            raise FailedPrecondition("VERSION_NOT_LOADED", f"version {pinned} is not loaded")
        if tried and trial.fail:
            raise ERRORS[trial.fail]("ON_TRIAL", "the candidate fails")
        if "channel" in request.parameters:
            channel = request.parameters["channel"].string_param
            if channel not in CHANNELS:
                raise NotFound("CHANNEL_NOT_FOUND", f"channel {channel!r} is unknown")
        self._fail_on_request()
        arrays = [
            decode_raw(raw, spec.datatype, shape, name=spec.name)
            for raw, spec, shape in zip(inputs.raw, signature.inputs, inputs.shapes, strict=True)
        ]
        if arrays[0].dtype == np.float32 and (arrays[0].reshape(-1) == POISON).any():
            raise ERRORS[self.options.poison]("POISON", "a value cannot be computed")
        step = step_of(request.parameters)
        if signature.states:
            arrays.append(self._total(step, arrays[0]))
        await self._occupy(inputs.rows, trial.alpha_s if tried else 0.0)
        results = COMPUTE[request.model_name](*arrays)
        if tried and trial.bias:
            results = tuple(result + np.float32(trial.bias) for result in results)
        version = pinned if tried else self.options.version
        told = 0 if tried else trial.revision
        if signature.states:
            self.totals[step.id] = results[0]
            if step.end:
                del self.totals[step.id]
        return infer_reply(
            model=request.model_name,
            version=str(version),
            request_id=request.id,
            outputs=[
                (spec, array.shape, encode_raw(array, spec.datatype))
                for spec, array in zip(signature.outputs, results, strict=True)
            ],
            provenance=Provenance(version, 0, 0, told) if self.options.trial else None,
        )

    def _total(self, step: Step | None, x: np.ndarray) -> np.ndarray:
        if step is None:
            raise sequence_required("running")
        if step.start:
            self.totals[step.id] = np.zeros_like(x)
        if step.id not in self.totals:
            raise not_started(step.id)
        return self.totals[step.id]

    async def _occupy(self, rows: int, longer_s: float) -> None:
        span_s = self.options.alpha_s + self.options.beta_s * rows + longer_s
        if span_s:
            async with self.device:
                await asyncio.sleep(span_s)

    def _model(self, name: str) -> Signature:
        if name not in self.models:
            raise NotFound("MODEL_NOT_FOUND", f"model {name!r} is unknown")
        return self.models[name]

    def set_ready(self, ready: bool) -> None:
        self.ready = ready


async def serve(options: argparse.Namespace) -> None:
    replica = Replica(options)
    server = RpcServer("127.0.0.1", options.port, message_bytes=options.message_bytes)
    server.add_service(SERVICE, replica)
    port = await server.start()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, replica.set_ready, False)
    loop.add_signal_handler(signal.SIGUSR2, replica.set_ready, True)
    log.info("serving", port=port)
    await wait_for_stop_signal()
    await server.stop(0)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--models", default="sum")
    parser.add_argument("--version", type=int, default=1)
    parser.add_argument("--max-batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--alpha-s", type=float, default=0.0)
    parser.add_argument("--beta-s", type=float, default=0.0)
    parser.add_argument("--fail", default="", help="status of the first --fail-times batches")
    parser.add_argument("--fail-times", type=int, default=0)
    parser.add_argument("--poison", default="INVALID_ARGUMENT")
    parser.add_argument("--message-bytes", type=int, default=64 * 1024 * 1024)
    parser.add_argument("--token-s", type=float, default=0.0)
    parser.add_argument("--pad", type=int, default=1, help="bytes beside each token")
    parser.add_argument("--stall-at", type=int, default=-1, help="token that never comes")
    parser.add_argument("--exit-after", type=int, default=-1, help="tokens before it dies")
    parser.add_argument("--trial", type=Path, help="JSON file of what is on trial")
    for flag in (
        "--no-marks",
        "--no-stream",
        "--no-index",
        "--no-codes",
        "--no-error-id",
        "--unready",
    ):
        parser.add_argument(flag, action="store_true")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    configure_logs("fake", ProcessSettings(log_format="json"))
    options = parse(argv)
    if options.no_codes:
        # A server that is not ours sends a status without google.rpc details.
        edge.trailing_metadata = lambda _error: ()
    return run(serve(options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
