"""Messages inside a stream: a ModelStreamInferResponse around an answer or an error, and back.

The protocol has a text only; the status code's name, the reason and the field stand beside the
request's id in the response's parameters, for clients that look.
"""

from __future__ import annotations

import grpc

from chassis.errors import CATEGORIES, HeadraceError, Internal
from protos.inference import grpc_service_pb2 as oip

CODE_PARAMETER = "headrace_code"
REASON_PARAMETER = "headrace_reason"
FIELD_PARAMETER = "headrace_field"
FINAL_PARAMETER = "triton_final_response"
# A request's wish that the end of its responses be a response of its own.
EMPTY_FINAL_PARAMETER = "triton_enable_empty_final_response"


def stream_reply(reply: oip.ModelInferResponse, *, final: bool) -> oip.ModelStreamInferResponse:
    """A response of a request; `final` marks its last one. `reply` is marked as well."""
    reply.parameters[FINAL_PARAMETER].bool_param = final
    message = oip.ModelStreamInferResponse()
    # Given to the constructor it would be serialized and parsed: 100 times as much for a megabyte.
    message.infer_response.CopyFrom(reply)
    return message


def stream_error(error: HeadraceError, model: str, request_id: str) -> oip.ModelStreamInferResponse:
    """The last response of a request that failed; it leaves the stream open."""
    reply = oip.ModelStreamInferResponse(error_message=error.message)
    response = reply.infer_response
    response.model_name = model
    response.id = request_id
    response.parameters[CODE_PARAMETER].string_param = error.code.name
    response.parameters[REASON_PARAMETER].string_param = error.reason
    response.parameters[FINAL_PARAMETER].bool_param = True
    if error.field:
        response.parameters[FIELD_PARAMETER].string_param = error.field
    return reply


def error_of(reply: oip.ModelStreamInferResponse) -> HeadraceError | None:
    """The error that a response with an `error_message` carries; None if it names no code.

    Servers other than ours name none.
    """
    parameters = reply.infer_response.parameters
    if CODE_PARAMETER not in parameters:
        return None
    name = parameters[CODE_PARAMETER].string_param
    reason = parameters[REASON_PARAMETER].string_param if REASON_PARAMETER in parameters else name
    field = parameters[FIELD_PARAMETER].string_param if FIELD_PARAMETER in parameters else ""
    code = getattr(grpc.StatusCode, name, grpc.StatusCode.INTERNAL)
    return CATEGORIES.get(code, Internal)(reason, reply.error_message, field=field)
