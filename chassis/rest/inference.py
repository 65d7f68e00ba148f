"""The endpoints that run a model: infer, and Triton's generate and generate_stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from chassis.errors import Internal, InvalidArgument
from chassis.oip import signature_of
from chassis.rest.exchange import BINARY, EVENTS, Exchange, Reply, json_reply
from chassis.rest.generate import generate_request, generated
from chassis.rest.infer_reply import infer_reply
from chassis.rest.infer_request import HEADER_LENGTH, infer_request
from chassis.rest.json_text import Object
from chassis.rest.refusals import dumped, error_body, refusal_of
from chassis.stream_errors import EMPTY_FINAL_PARAMETER, error_of
from protos.inference import grpc_service_pb2 as oip

Answers = AsyncGenerator[Object, None]


async def infer(exchange: Exchange) -> Reply:
    """ModelInfer."""
    json_bytes = exchange.limits.json_bytes
    message, wanted = infer_request(
        await exchange.body(),
        exchange.headers.get(HEADER_LENGTH),
        model=exchange.model,
        version=exchange.version,
        json_bytes=json_bytes,
    )
    answer = await exchange.ask("ModelInfer", message)
    body, text_length = infer_reply(answer, wanted, json_bytes)
    if text_length is None:
        return Reply(body)
    return Reply(body, content_type=BINARY, headers=[(HEADER_LENGTH, str(text_length).encode())])


async def generate(exchange: Exchange) -> Reply:
    """Exactly one answer. Raises InvalidArgument (NOT_ONE_ANSWER) if the model gives another
    number of them."""
    found: list[Object] = []
    async with aclosing(_answers(exchange)) as answers:
        async for answer in answers:
            found.append(answer)
            if len(found) > 1:
                break
    if len(found) != 1:
        raise InvalidArgument(
            "NOT_ONE_ANSWER",
            f"the model gave {'more than one answer' if found else 'no answer'}; generate expects "
            "exactly one, generate_stream takes any number",
        )
    return json_reply(found[0])


async def generate_stream(exchange: Exchange) -> Reply:
    """Any number of answers as server-sent events; an error before the first one is a status."""
    answers = _answers(exchange)
    try:
        first = await anext(answers, None)
    except BaseException:
        await answers.aclose()
        raise
    return Reply(
        content_type=EVENTS,
        headers=[(b"cache-control", b"no-cache")],
        parts=_events(first, answers),
    )


async def _events(first: Object | None, answers: Answers) -> AsyncGenerator[bytes, None]:
    async with aclosing(answers):
        if first is None:
            return
        yield _event(dumped(first))
        try:
            async for answer in answers:
                yield _event(dumped(answer))
        except Exception as error:
            yield _event(error_body(refusal_of("http/ModelStreamInfer", error)))


def _event(text: bytes) -> bytes:
    return b"data: " + text + b"\n\n"


async def _answers(exchange: Exchange) -> Answers:
    given = await exchange.json()
    name, version = exchange.model, exchange.version
    exchange.require_model()
    metadata = await exchange.look_up(
        "ModelMetadata", oip.ModelMetadataRequest(name=name, version=version)
    )
    described = await exchange.look_up(
        "ModelConfig", oip.ModelConfigRequest(name=name, version=version)
    )
    signature = signature_of(metadata, described.config)
    message = generate_request(given, signature, model=name, version=version)
    if not signature.decoupled:
        yield generated(await exchange.ask("ModelInfer", message), exchange.limits.json_bytes)
        return
    # Each answer goes out when it is there, not when the next one shows that it is not the last.
    message.parameters[EMPTY_FINAL_PARAMETER].bool_param = True
    async for answer in exchange.stream(message):
        if answer.error_message:
            raise error_of(answer) or Internal("MODEL_FAILED", answer.error_message)
        if answer.infer_response.outputs:
            yield generated(answer.infer_response, exchange.limits.json_bytes)
