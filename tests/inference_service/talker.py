"""A generative model that does as its prompt says, and the calls that tests make to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from chassis.infer import decoded_outputs, encoded_inputs, infer_request
from headrace import InvalidArgument, Model, Publisher, TensorSpec
from model_store import Store
from protos.inference import grpc_service_pb2 as oip


@dataclass
class Heard:
    """What the generators of this process did, by prompt; written by the device's thread."""

    made: dict[bytes, int] = field(default_factory=dict)
    closed: list[bytes] = field(default_factory=list)


HEARD = Heard()


class Voice(nn.Module):
    """Its one weight is what it says."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))


class Talker(Model):
    """Says "<weight>.<n>" `count` times, for ever if that is negative.

    A prompt "raise" raises after two, "refuse" gives a reason, "exit" exits, "lie" answers with the
    wrong shape, "stubborn" does not let itself be closed.
    """

    name = "talker"
    inputs = (TensorSpec("prompt", "BYTES", (1,)), TensorSpec("count", "INT32", (1,)))
    outputs = (TensorSpec("word", "BYTES", (1,)), TensorSpec("n", "INT64", (1,)))
    max_batch_size = 0
    decoupled = True

    def build(self) -> nn.Module:
        return Voice()

    def samples(self) -> tuple[dict[str, np.ndarray[Any, Any]], None]:
        prompt = np.array([b"golden"], dtype=np.object_)
        return {"prompt": prompt, "count": np.array([-1], dtype=np.int32)}, None

    def generate(self, module: nn.Module, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        (prompt,), count, n = inputs["prompt"], int(inputs["count"]), 0
        try:
            while n != count:
                if n == 2:
                    _misbehave(prompt)
                HEARD.made[prompt] = n = n + 1
                word = f"{module.weight.item():g}.{n}"
                yield {"n": torch.tensor([n]), "word": np.array([word], dtype=np.object_)}
        finally:
            HEARD.closed.append(prompt)
            if prompt == b"stubborn":
                raise RuntimeError("never")


def _misbehave(prompt: bytes) -> None:
    if prompt == b"raise":
        raise KeyError("secret of the module")
    if prompt == b"refuse":
        raise InvalidArgument("TOO_TALKATIVE", "two words are enough")
    if prompt == b"exit":
        raise SystemExit(1)


class Liar(Talker):
    """Its responses have a shape that its signature does not promise, from the sixth on."""

    def generate(self, module: nn.Module, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for response in super().generate(module, inputs):
            short = int(response["n"]) > 5
            yield {"word": response["word"][:0]} | {"n": response["n"]} if short else response


class Rows(Talker):
    """The same for batches: a row is answered by its own word."""

    inputs = (TensorSpec("prompt", "BYTES", (-1, 1)), TensorSpec("count", "INT32", (-1, 1)))
    outputs = (TensorSpec("word", "BYTES", (-1, 1)),)
    max_batch_size = 4

    def samples(self) -> tuple[dict[str, np.ndarray[Any, Any]], None]:
        prompts = np.array([[b"a"], [b"b"]], dtype=np.object_)
        return {"prompt": prompts, "count": np.array([[2], [2]], dtype=np.int32)}, None

    def generate(self, module: nn.Module, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for _ in range(int(inputs["count"].max())):
            yield {"word": np.array([[text[0] * 2] for text in inputs["prompt"]], dtype=object)}


def speak(store: Store, weight: float, model: Model | None = None) -> int:
    """Publishes a version that says `weight`."""
    with Publisher(store, model or Talker()) as publisher:
        return publisher.publish(Voice(weight))


def ask(
    prompt: str, count: int, *, empty_final: bool = False, request_id: str = "", timeout: int = 0
) -> oip.ModelInferRequest:
    """A request for `count` words; `timeout` in microseconds."""
    inputs = {
        "prompt": np.array([prompt.encode()], dtype=np.object_),
        "count": np.array([count], dtype=np.int32),
    }
    made = infer_request(
        model="talker", request_id=request_id or prompt, inputs=encoded_inputs(inputs), outputs=()
    )
    if empty_final:
        made.parameters["triton_enable_empty_final_response"].bool_param = True
    if timeout:
        made.parameters["timeout"].int64_param = timeout
    return made


def word_of(reply: oip.ModelStreamInferResponse) -> str:
    """What a response says; "" for one without outputs."""
    response = reply.infer_response
    return decoded_outputs(response)["word"].item().decode() if response.outputs else ""


def final(reply: oip.ModelStreamInferResponse) -> bool:
    return reply.infer_response.parameters["triton_final_response"].bool_param


def refusal(reply: oip.ModelStreamInferResponse) -> tuple[str, str]:
    parameters = reply.infer_response.parameters
    return parameters["headrace_code"].string_param, parameters["headrace_reason"].string_param


async def each(*requests: oip.ModelInferRequest) -> AsyncIterator[oip.ModelInferRequest]:
    """The requests as a stream that is half-closed after them."""
    for request in requests:
        yield request


async def answers(call: Any, *requests: oip.ModelInferRequest) -> list[tuple[str, bool]]:
    """Writes the requests, half-closes, and returns (word, final) of all responses."""
    for request in requests:
        await call.write(request)
    await call.done_writing()
    return [(word_of(reply), final(reply)) async for reply in call]
