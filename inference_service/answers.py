"""The way out: finished `Work` as a reply, or as responses and errors inside a stream."""

from __future__ import annotations

from collections.abc import Sequence

from chassis.errors import HeadraceError
from chassis.infer import infer_reply
from chassis.padding import cut
from chassis.stream_errors import stream_error, stream_reply
from inference_service.work import Output, Response, Work
from protos.inference import grpc_service_pb2 as oip


def reply_of(work: Work) -> oip.ModelInferResponse:
    """The reply of work that succeeded; it names the version that computed it.

    Raises what `Window.write` raises.
    """
    return _reply(work, work.outputs)


def stream_reply_of(work: Work) -> oip.ModelStreamInferResponse:
    """The message that answers `work` on a stream."""
    if work.error is not None:
        return stream_error(work.error, work.served.name, work.request_id)
    try:
        return stream_reply(_reply(work, work.outputs), final=True)
    except HeadraceError as error:
        # The caller's shared memory is gone, or too small for an output.
        return stream_error(error, work.served.name, work.request_id)


def response_of(work: Work, response: Response, *, final: bool) -> oip.ModelStreamInferResponse:
    """The message of one response of a decoupled model."""
    return stream_reply(_reply(work, response.outputs), final=final)


def end_of(work: Work) -> oip.ModelStreamInferResponse:
    """The message that ends a decoupled model's responses: an error, or nothing more to say."""
    if work.error is not None:
        return stream_error(work.error, work.served.name, work.request_id)
    return stream_reply(_reply(work, ()), final=True)


def _reply(work: Work, outputs: Sequence[Output]) -> oip.ModelInferResponse:
    if work.cuts and outputs:
        outputs = [
            (spec, *cut(spec, shape, raw, work.cuts.get(at, ())))
            for at, (spec, shape, raw) in zip(work.wanted, outputs, strict=True)
        ]
    return infer_reply(
        model=work.served.name,
        version=work.version_text,
        request_id=work.request_id,
        outputs=outputs,
        typed=work.inputs.typed,
        forms=work.forms if outputs else (),
        provenance=work.provenance,
    )
