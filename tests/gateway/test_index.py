"""The indexes of several replicas as one."""

from __future__ import annotations

from gateway.index import Entry, fleet_index


def ready(version: str, name: str = "m") -> Entry:
    return Entry(name, version, "READY")


def missing(version: str, reason: str, name: str = "m") -> Entry:
    return Entry(name, version, "UNAVAILABLE", reason)


def test_what_all_have_ready_is_ready_without_a_reason():
    assert fleet_index([[ready("3")], [ready("3")]], ()) == [ready("3")]


def test_what_any_has_ready_is_ready_and_tells_how_many_have_not():
    index = fleet_index([[ready("3")], [missing("3", "PROBE_FAILED: off by 1")]], ())
    assert index == [
        Entry("m", "3", "READY", "ready on 1 of 2 replicas; elsewhere: PROBE_FAILED: off by 1")
    ]
    index = fleet_index([[ready("3")], [], [ready("3")]], ())
    assert index[0].reason == "ready on 2 of 3 replicas; elsewhere: not loaded"


def test_what_none_has_ready_is_loading_or_tells_why_not():
    loading = Entry("m", "4", "LOADING")
    index = fleet_index([[loading, missing("2", "not loaded")], [missing("4", "not loaded")]], ())
    assert index == [missing("2", "not loaded"), Entry("m", "4", "LOADING", "not loaded")]


def test_versions_are_in_order_and_a_model_without_one_is_named_once():
    nothing = Entry("n", "", "UNAVAILABLE", "no version is published on the channel yet")
    index = fleet_index([[ready("10"), nothing], [ready("9"), nothing]], ())
    assert [(entry.name, entry.version) for entry in index] == [("m", "9"), ("m", "10"), ("n", "")]
    index = fleet_index([[missing("", "not loaded")], [ready("1")]], ())
    assert [entry.version for entry in index] == ["1"]


def test_an_unloaded_model_is_unavailable_whatever_a_replica_says():
    index = fleet_index([[ready("1"), ready("2")]], {"m", "gone"})
    assert index == [
        missing("", "unloaded", "gone"),
        missing("1", "unloaded"),
        missing("2", "unloaded"),
    ]


def test_long_reasons_are_cut():
    [entry] = fleet_index([[missing("1", "x" * 5000)]], ())
    assert len(entry.reason) == 300
