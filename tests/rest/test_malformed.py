"""Bodies that hypothesis makes up: a client's fault is never a defect of ours."""

import asyncio
import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chassis.errors import HeadraceError
from chassis.oip import config_reply, metadata_reply, signature_of
from chassis.rest.generate import generate_request
from chassis.rest.infer_request import infer_request
from chassis.rest.json_text import parsed
from tests.rest.http import ask
from tests.rest.served import SIGNATURES, Served

MIB = 1024 * 1024
NAMES = st.sampled_from(
    ["inputs", "outputs", "parameters", "name", "shape", "datatype", "data", "id", "in"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["FP32", "BYTES", "INT8", "binary_data_size", "in", "NaN"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=3), inner),
    max_leaves=20,
)
TENSORS = st.fixed_dictionaries(
    {
        "name": st.just("in") | SCALARS,
        "datatype": st.sampled_from(sorted({"FP32", "INT8", "UINT64", "BYTES", "BOOL"})) | SCALARS,
        "shape": st.lists(st.integers(-2, 4) | SCALARS, max_size=3) | VALUES,
    },
    optional={
        "data": st.lists(VALUES, max_size=4) | VALUES,
        "parameters": st.dictionaries(st.just("binary_data_size") | st.text(max_size=3), VALUES),
    },
)
REQUESTS = VALUES | st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, max_size=3)},
    optional={"id": SCALARS, "parameters": VALUES, "outputs": st.lists(VALUES, max_size=2)},
)


def read(body: bytes, header_length: bytes | None = None) -> None:
    """Raises HeadraceError, or UnicodeEncodeError, which the edge knows, or nothing."""
    try:
        message, _ = infer_request(body, header_length, model="m", version="", json_bytes=MIB)
        assert message.SerializeToString()
    except (HeadraceError, UnicodeEncodeError):
        pass


@settings(max_examples=400, deadline=None)
@given(REQUESTS, st.binary(max_size=8), st.none() | st.integers(-1, 300))
def test_any_json_is_read_or_refused(value, rest, length):
    text = json.dumps(value).encode()
    read(text + rest, None if length is None else str(length).encode())
    read(text + rest, str(len(text)).encode())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64), st.none() | st.binary(max_size=6))
def test_any_bytes_are_read_or_refused(body, length):
    read(body, length)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES | st.text(max_size=3), VALUES))
def test_any_json_is_generated_from_or_refused(value):
    for name in ("flat", "echo_bytes", "words"):
        signature = signature_of(
            metadata_reply(name, ["1"], SIGNATURES[name]),
            config_reply(name, SIGNATURES[name]).config,
        )
        try:
            given_object = parsed(json.dumps(value).encode(), MIB)
            generate_request(given_object, signature, model=name, version="")
        except (HeadraceError, UnicodeEncodeError):
            pass


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.sampled_from(["infer", "generate", "config", "nothing"]), REQUESTS),
        min_size=8,
        max_size=8,
    )
)
def test_a_server_answers_all_of_it_with_a_client_error(requests):
    async def answers() -> list[int]:
        async with Served() as served:
            found = []
            for path, value in requests:
                body = json.dumps(value).encode()
                answer = await ask(served.port, "POST", f"/v2/models/echo_fp32/{path}", body)
                found.append(answer.status)
            return found

    assert set(asyncio.run(answers())) <= {200, 400, 404, 405, 413}
