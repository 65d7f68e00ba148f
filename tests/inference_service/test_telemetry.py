"""Traces of a replica, as Triton's client asks for them."""

from __future__ import annotations

import numpy as np
import tritonclient.grpc.aio as triton
from structlog.testing import capture_logs

from tests.inference_service.served_replica import ServedReplica, request

X = np.arange(8, dtype=np.float32).reshape(2, 4)


async def test_a_batch_is_traced_from_its_arrival_to_its_answer(store_url, line):
    line.publish(1.0)
    async with (
        ServedReplica(store_url, allow_control=True) as replica,
        triton.InferenceServerClient(f"127.0.0.1:{replica.port}") as client,
    ):
        await replica.wait_ready()
        await client.update_trace_settings(
            "affine", {"trace_level": ["TIMESTAMPS"], "trace_rate": "2"}
        )
        with capture_logs() as events:
            for name in ("first", "second"):
                await replica.oip.ModelInfer(request(X, request_id=name))
            await replica.refusal(request(X, request_id="third", version="99"))
            await replica.refusal(request(X, request_id="fourth", version="99"))
    done, refused = [event for event in events if event["event"] == "trace"]
    assert (done["id"], done["version"], done["status"]) == ("second", "1", "OK")
    assert (done["place"], done["model"], done["batch_rows"]) == ("replica", "affine", 2)
    assert list(done["timestamps_ns"]) == [
        "received",
        "queued",
        "compute_start",
        "infer_start",
        "infer_end",
        "compute_end",
        "answered",
    ]
    stamps = list(done["timestamps_ns"].values())
    assert stamps == sorted(stamps)
    assert (refused["id"], refused["status"]) == ("fourth", "FAILED_PRECONDITION")
    assert list(refused["timestamps_ns"]) == ["received", "queued", "answered"]


async def test_a_replica_grants_no_control_by_itself(replica):
    async with triton.InferenceServerClient(f"127.0.0.1:{replica.port}") as client:
        settings = await client.get_log_settings(as_json=True)
        assert settings["settings"]["log_info"] == {"bool_param": True}
        try:
            await client.update_log_settings({"log_info": False})
        except triton.InferenceServerException as error:
            assert error.status() == "StatusCode.PERMISSION_DENIED"
        else:
            raise AssertionError("a stranger switched the log")
