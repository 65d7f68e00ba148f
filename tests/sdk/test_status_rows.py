"""What `headrace status` makes of a replica's answer."""

from __future__ import annotations

from headrace.cli.calls import replica_rows
from protos.headrace.v1 import replica_pb2


def row(*failures, wanted, store_error=""):
    status = replica_pb2.ReplicaGetStatusResponse(store_error=store_error)
    model = status.models.add(model="clicks", wanted_version=wanted)
    for version, reason in failures:
        model.failures.add(version=version, reason=reason, message="why")
    (made,) = replica_rows("127.0.0.1:1", status)
    return made


def test_the_failure_shown_is_that_of_the_version_wanted():
    # A replica that starts falls back: its newest failure is that of an older version.
    fallen_back = row((3, "DIGEST_MISMATCH"), (4, "NON_FINITE"), wanted=4)
    assert fallen_back["failure"] == "v4 NON_FINITE: why"
    assert row((3, "DIGEST_MISMATCH"), (2, "PROBE_FAILED"), wanted=4)["failure"].startswith("v3 ")
    assert row(wanted=4)["failure"] == ""


def test_a_candidate_is_shown_while_there_is_one():
    status = replica_pb2.ReplicaGetStatusResponse()
    model = status.models.add(model="clicks", serving_version=7)
    assert replica_rows("127.0.0.1:1", status)[0]["candidate"] == ""
    model.candidate_version = 8
    assert replica_rows("127.0.0.1:1", status)[0]["candidate"] == "v8 not ready"
    model.candidate_ready = True
    assert replica_rows("127.0.0.1:1", status)[0]["candidate"] == "v8 ready"


def test_the_error_of_the_store_is_shown():
    assert row(wanted=1, store_error="STORE_EVICTS: why")["store_error"] == "STORE_EVICTS: why"


def test_what_is_unusual_about_publications_is_shown():
    status = replica_pb2.ReplicaGetStatusResponse()
    status.models.add(model="clicks", publications="PUBLICATIONS_OVERDUE: why")
    assert replica_rows("127.0.0.1:1", status)[0]["publications"] == "PUBLICATIONS_OVERDUE: why"


def test_what_computes_is_shown_and_why_it_is_not_what_was_asked_for():
    def shown(**engine):
        status = replica_pb2.ReplicaGetStatusResponse()
        status.models.add(model="clicks", engine=replica_pb2.EngineStatus(**engine))
        return replica_rows("127.0.0.1:1", status)[0]["engine"]

    graphs = replica_pb2.GraphStatus
    assert shown(engine="exported", precision="published") == "exported"
    assert shown(engine="compiled", precision="bf16", graphs=graphs(sizes=[1, 2])) == (
        "compiled, bf16, graphs"
    )
    assert shown(engine="eager", why_not="no g++", graphs=graphs(why_not="device cpu")) == (
        "eager (no g++; no graphs: device cpu)"
    )
