"""The way out: finished `Work` as a reply, or as an error inside a stream."""

from __future__ import annotations

from chassis.infer import infer_reply
from chassis.stream_errors import stream_error
from inference_service.work import Work
from protos.inference import grpc_service_pb2 as oip


def reply_of(work: Work) -> oip.ModelInferResponse:
    """The reply of work that succeeded; it names the version that computed it."""
    return infer_reply(
        model=work.served.name,
        version=work.version_text,
        request_id=work.request_id,
        outputs=work.outputs,
        typed=work.inputs.typed,
    )


def stream_reply_of(work: Work) -> oip.ModelStreamInferResponse:
    """The message that answers `work` on a stream."""
    if work.error is not None:
        return stream_error(work.error, work.served.name, work.request_id)
    return oip.ModelStreamInferResponse(infer_response=reply_of(work))
