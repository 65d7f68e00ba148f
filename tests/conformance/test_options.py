"""What a request may ask for beside its tensors: classes, and places in a sequence."""

from __future__ import annotations

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.conformance.target import message, refused, tensor

pytestmark = pytest.mark.system

SCORES = np.array([[0.5, -1.0, 2.0], [3.0, 1.0, 0.25]], np.float32)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (1, [["2.000000:2:emu"], ["3.000000:0:cat"]]),
        (2, [["2.000000:2:emu", "0.500000:0:cat"], ["3.000000:0:cat", "1.000000:1:dog"]]),
    ],
)
def test_the_best_classes_by_name(client, classes, expected):
    asked = [triton.InferRequestedOutput("scores", class_count=classes)]
    answer = client.infer("classes", [tensor("x", SCORES, "FP32")], outputs=asked)
    assert [[text.decode() for text in row] for row in answer.as_numpy("scores")] == expected


def tally(client, number, sequence, **place):
    sent = [tensor("x", np.array([[number]], np.int64), "INT64")]
    answer = client.infer("tally", sent, sequence_id=sequence, **place)
    assert answer.get_response().model_version == "1"
    return answer.as_numpy("total").tolist()


@pytest.mark.parametrize("names", [(71, 72), ("first", "second")], ids=["numbers", "texts"])
def test_sequences_keep_their_state_apart(client, target, names):
    one, two = (f"{target.name}-{name}" if isinstance(name, str) else name for name in names)
    assert tally(client, 1, one, sequence_start=True) == [[1]]
    assert tally(client, 10, two, sequence_start=True) == [[10]]
    assert tally(client, 2, one) == [[3]]
    assert tally(client, 20, two) == [[30]]
    assert tally(client, 3, one, sequence_end=True) == [[6]]
    assert tally(client, 30, two, sequence_end=True) == [[60]]
    # It has ended: a start begins anew.
    assert tally(client, 5, one, sequence_start=True, sequence_end=True) == [[5]]


def test_a_sequence_needs_a_start(target):
    request = message("tally", ("x", "INT64", [1, 1], np.array([1]).tobytes()))
    request.parameters["sequence_id"].int64_param = 4711
    with target.stub() as stub, refused("INVALID_ARGUMENT", "SEQUENCE_NOT_STARTED"):
        stub.ModelInfer(request)
