"""TraceSetting and LogSettings of a live gateway, as Triton's client calls them."""

from __future__ import annotations

import tritonclient.grpc.aio as triton

from tests.gateway.calls import ask, code_of, refused, until


def admin_of(gateway) -> str:
    return f"127.0.0.1:{gateway.serving['admin_port']}"


async def test_traces_are_switched_on_and_off(replica, gateway, connect):
    live = gateway(replica())
    client = connect(live)
    async with triton.InferenceServerClient(admin_of(live)) as admin:
        await ask(client, request_id="before")
        reply = await admin.update_trace_settings(
            settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "2"},
            as_json=True,
        )
        assert reply["settings"]["trace_level"] == {"value": ["TIMESTAMPS"]}
        await ask(client, request_id="r-1")
        error = await refused(admin.update_trace_settings("nobody", {"trace_rate": "1"}))
        assert code_of(error) == "NOT_FOUND"
        reply = await admin.update_trace_settings("sum", {"trace_rate": None}, as_json=True)
        assert reply["settings"]["trace_count"] == {"value": ["1"]}
        await ask(client, request_id="r-2")
        await ask(client, request_id="r-3")
        reply = await client.get_trace_settings(as_json=True)
        assert reply["settings"] == {
            "trace_level": {"value": ["TIMESTAMPS"]},
            "trace_rate": {"value": ["1"]},
            "trace_count": {"value": ["0"]},
            "log_frequency": {"value": ["0"]},
            "trace_file": {"value": [""]},
            "trace_mode": {"value": ["triton"]},
        }

    async def written() -> bool:
        return len(live.events("trace")) == 2

    await until(written)
    first, second = live.events("trace")
    assert (first["id"], second["id"]) == ("r-1", "r-2")
    assert (first["place"], first["model"], first["status"]) == ("gateway", "sum", "OK")
    assert first["version"] and first["batch_rows"] == 1
    stamps = first["timestamps_ns"]
    assert list(stamps) == [
        "received",
        "queued",
        "dispatched",
        "compute_start",
        "compute_end",
        "answered",
    ]
    assert list(stamps.values()) == sorted(stamps.values())
    assert stamps["queued"] > stamps["received"]


async def test_the_log_of_the_process_is_switched(replica, gateway, connect):
    live = gateway(replica())
    client = connect(live)
    async with triton.InferenceServerClient(admin_of(live)) as admin:
        settings = await client.get_log_settings(as_json=True)
        assert settings["settings"]["log_info"] == {"bool_param": True}
        await admin.update_trace_settings(
            settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "1"}
        )
        reply = await admin.update_log_settings(
            {"log_info": False, "log_verbose_level": 2, "log_format": "default"}, as_json=True
        )
        assert reply["settings"] == {
            "log_file": {"string_param": ""},
            "log_info": {"bool_param": False},
            "log_warning": {"bool_param": True},
            "log_error": {"bool_param": True},
            "log_verbose_level": {"uint32_param": 2},
            "log_format": {"string_param": "default"},
        }
        await ask(client, request_id="unseen")
        await admin.update_log_settings({"log_info": True})
        await ask(client, request_id="seen")

    async def written() -> bool:
        return bool(live.events("trace"))

    await until(written)
    assert [event["id"] for event in live.events("trace")] == ["seen"]
    assert "T" not in live.events("trace")[0]["timestamp"]


async def test_the_data_port_reads_and_changes_nothing(plain, connect):
    client = connect(plain[0])
    for call in (
        client.update_trace_settings(settings={"trace_rate": "7"}),
        client.update_log_settings({"log_info": False}),
    ):
        error = await refused(call)
        assert code_of(error) == "PERMISSION_DENIED"
        assert "admin port" in error.message()
    rate = (await client.get_trace_settings(as_json=True))["settings"]["trace_rate"]
    assert rate == {"value": ["1000"]}


async def test_wrong_settings_are_named(plain):
    async with triton.InferenceServerClient(admin_of(plain[0])) as admin:
        for call, code in (
            (admin.update_trace_settings(settings={"trace_rate": "-5"}), "INVALID_ARGUMENT"),
            (admin.update_trace_settings(settings={"trace_file": "/x"}), "UNIMPLEMENTED"),
            (admin.update_log_settings({"log_file": "/x"}), "UNIMPLEMENTED"),
            (admin.update_log_settings({"log_everything": True}), "INVALID_ARGUMENT"),
        ):
            error = await refused(call)
            assert code_of(error) == code
            assert any(word in error.message() for word in ("trace_", "log_"))


async def test_the_setting_allow_control_opens_the_data_port(replica, gateway, connect):
    live = gateway(replica(), allow_control="true")
    reply = await connect(live).update_trace_settings(settings={"trace_rate": "9"}, as_json=True)
    assert reply["settings"]["trace_rate"] == {"value": ["9"]}
