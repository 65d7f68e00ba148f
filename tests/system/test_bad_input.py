"""What a client sends wrong: the status and sentence it gets, at the gateway and at a replica."""

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from headrace import Client, Publisher
from tests.system.integers import Integers, computed, filled, rows
from tests.system.stack import Stack, wait_until

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bad-input")
    store = f"file://{directory}/store"
    module = Integers().build()
    weights = filled(module, 1)
    with Publisher(store, model=Integers()) as publisher:
        publisher.publish(module)
    stack = Stack(directory, store, "integers").start(replicas=1)
    with Client(stack.gateway.address) as client:
        wait_until(lambda: client.ready("integers"), within_s=60, what="the model is ready")
    yield stack, weights
    stack.stop()


@pytest.fixture(params=["gateway", "replica"])
def client(served, request):
    stack, _ = served
    address = stack.gateway.address if request.param == "gateway" else stack.replicas[0].address
    client = triton.InferenceServerClient(address)
    yield client
    client.close()


def tensor(name="x", shape=(1, 16), datatype="FP32", content=None):
    tensor = triton.InferInput(name, list(shape), datatype)
    tensor._raw_content = content if content is not None else b"\0" * 4 * int(np.prod(shape))
    return tensor


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ([tensor("y")], "input 'y' is unknown; expected the inputs x"),
        ([tensor(), tensor()], "2 inputs, some twice; expected the inputs x"),
        ([tensor(datatype="FP64", content=b"\0" * 128)], "datatype 'FP64'; expected FP32"),
        ([tensor(shape=(1, 15))], "shape [1, 15]; expected [-1, 16]"),
        ([tensor(shape=(16,))], "shape [16]; expected [-1, 16]"),
        ([tensor(shape=(-1, 16), content=b"")], "shape [-1, 16]; expected [-1, 16]"),
        ([tensor(content=b"\0" * 63)], "holds 63 bytes; FP32 of shape [1, 16] needs 64"),
        ([tensor(shape=(17, 16))], "17 rows; the model takes at most 16"),
        ([], "input 'x' is missing; expected the inputs x"),
    ],
)
def test_wrong_tensors_are_invalid(client, inputs, sentence):
    with pytest.raises(InferenceServerException) as caught:
        client.infer("integers", inputs)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert sentence in caught.value.message()


def test_an_unknown_output_is_invalid(client):
    outputs = [triton.InferRequestedOutput("z")]
    with pytest.raises(
        InferenceServerException, match="'z' is unknown; expected any of y"
    ) as caught:
        client.infer("integers", [tensor()], outputs=outputs)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize("model", ["nope", "../integers", "", "a" * 500])
def test_an_unknown_model_is_not_found(client, model):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [tensor()])
    assert caught.value.status() in ("StatusCode.NOT_FOUND", "StatusCode.INVALID_ARGUMENT")
    assert "integers" in caught.value.message() or "not a valid name" in caught.value.message()


@pytest.mark.parametrize(
    ("version", "status"),
    [("99", ("NOT_FOUND", "FAILED_PRECONDITION")), ("v1", ("INVALID_ARGUMENT",))],
)
def test_a_version_that_is_not_there(client, version, status):
    with pytest.raises(InferenceServerException) as caught:
        client.infer("integers", [tensor()], model_version=version)
    assert caught.value.status().removeprefix("StatusCode.") in status


def test_good_requests_beside_bad_ones_are_answered(client, served):
    _, weights = served
    x = rows(3, seed=5)
    good = triton.InferInput("x", [3, 16], "FP32")
    good.set_data_from_numpy(x)
    for _ in range(5):
        with pytest.raises(InferenceServerException):
            client.infer("integers", [tensor(content=b"")])
        reply = client.infer("integers", [good], request_id="mine")
        assert np.array_equal(reply.as_numpy("y"), computed(weights, x))
        assert (reply.get_response().id, reply.get_response().model_version) == ("mine", "1")


def test_the_pinned_version_answers(client, served):
    reply = client.infer("integers", [tensor()], model_version="1")
    assert reply.get_response().model_version == "1"


def test_metadata_and_config_agree(client):
    metadata = client.get_model_metadata("integers", as_json=True)
    config = client.get_model_config("integers", as_json=True)["config"]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "16"]}]
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["16"]}]
    assert config["max_batch_size"] == 16
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata().name


def test_statistics_grow(client):
    client.infer("integers", [tensor()])
    before = client.get_inference_statistics("integers", "1").model_stats[0].inference_count
    client.infer("integers", [tensor(shape=(4, 16))])
    (after,) = client.get_inference_statistics("integers", "1").model_stats
    assert after.inference_count - before == 4
    assert after.inference_stats.success.count >= 1
    assert after.inference_stats.queue.count >= 1
