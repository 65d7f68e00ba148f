"""The way out: finished `Work` as a reply, or as an error inside a stream."""

from __future__ import annotations

from chassis.errors import HeadraceError
from chassis.infer import infer_reply
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


def stream_error(error: HeadraceError, model: str, request_id: str) -> oip.ModelStreamInferResponse:
    """An error that leaves the stream open.

    The protocol has a text only; the status code's name and the reason stand beside the id in the
    response's parameters `headrace_code` and `headrace_reason`, for clients that look.
    """
    reply = oip.ModelStreamInferResponse(error_message=error.message)
    reply.infer_response.model_name = model
    reply.infer_response.id = request_id
    reply.infer_response.parameters["headrace_code"].string_param = error.code.name
    reply.infer_response.parameters["headrace_reason"].string_param = error.reason
    return reply
