"""Counters never go down, whatever happens to versions and replicas."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.reports import statistics_reply
from gateway.statistics import Ledger
from gateway.version_counters import KEPT_RESPONSES, KEPT_VERSIONS
from tests.gateway.calls import ask, code_of, refused, rows, until

DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
PARTS = ("compute_infer", "compute_output", "success", "fail", "empty_response", "cancel")


@dataclass
class Asked:
    arrived_at: float
    id: str = ""


def answer(
    ledger: Ledger, version: str, requests: int = 1, rows: int = 1, now: float = 1.0
) -> None:
    ledger.on_answered(
        "m",
        version,
        [Asked(now - 0.5)] * requests,
        batch_rows=rows,
        taken_at=now - 0.25,
        now=now,
        join_ns=5,
        infer_s=0.125,
        split_ns=7,
    )


def report(ledger: Ledger, loaded: tuple[int, ...] = ()):
    return statistics_reply({"m": ledger.of("m")}, {"m": loaded}).model_stats


def counts(stats) -> Counter[str]:
    """Every counter of one entry by its path."""
    found = Counter({"rows": stats.inference_count, "batches": stats.execution_count})
    found["last"] = stats.last_inference
    for name in DURATIONS:
        duration = getattr(stats.inference_stats, name)
        found[name], found[f"{name}_ns"] = duration.count, duration.ns
    for size in stats.batch_stats:
        found[f"size {size.batch_size}"] = size.compute_infer.count
        found[f"size {size.batch_size} ns"] = size.compute_infer.ns
    for index, response in stats.response_stats.items():
        for name in PARTS:
            found[f"response {index} {name}"] = getattr(response, name).count
    return found


def total(entries) -> Counter[str]:
    found: Counter[str] = Counter()
    for stats in entries:
        found.update(counts(stats))
    del found["last"]
    return found


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["answer", "answer", "fail", "refuse", "respond", "empty", "miss", "v"]),
        st.integers(1, KEPT_VERSIONS * 2),
        st.integers(1, 4),
    ),
    max_size=200,
)


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_no_counter_ever_goes_down_and_none_is_lost(steps):
    ledger, before, sums = Ledger(), {}, Counter()
    answered = failed = 0
    for kind, version, count in steps:
        name = f"v{version}" if kind == "v" else str(version)
        if kind in ("answer", "v"):
            answer(ledger, name, requests=count, rows=count)
            answered += count
        elif kind == "fail":
            ledger.on_failed("m", [Asked(0.0)] * count, "UNAVAILABLE", now=1.0)
            failed += count
        elif kind == "refuse":
            ledger.on_refused("m", "INVALID_ARGUMENT")
            failed += 1
        elif kind == "respond":
            ledger.on_response("m", name, count * 100, 0.5)
        elif kind == "empty":
            ledger.on_empty_response("m", name, 0.5)
        else:
            ledger.on_response_missed("m", name, count, 0.5, cancelled=count % 2 == 0)
        entries = {stats.version: counts(stats) for stats in report(ledger, (version,))}
        assert len(entries) <= KEPT_VERSIONS + 2
        for seen, known in before.items():
            if seen in entries:
                assert all(entries[seen][path] >= value for path, value in known.items())
        before |= entries
        now = total(report(ledger))
        assert all(now[path] >= value for path, value in sums.items())
        assert (now["success"], now["fail"]) == (answered, failed)
        sums = now


def test_versions_that_are_dropped_are_counted_without_a_version():
    ledger = Ledger()
    for version in range(1, KEPT_VERSIONS + 11):
        answer(ledger, str(version), rows=2)
    entries = report(ledger)
    numbers = [str(number) for number in range(11, KEPT_VERSIONS + 11)]
    assert [stats.version for stats in entries] == [*numbers, ""]
    assert entries[-1].inference_count == 20 and entries[-1].inference_stats.success.count == 10
    answer(ledger, "3")
    assert report(ledger)[-1].inference_count == 21, "it does not begin anew"
    assert "3" not in [stats.version for stats in report(ledger, loaded=(3,))]


def test_the_version_in_use_stays_however_many_others_came():
    ledger = Ledger()
    for version in range(1, KEPT_VERSIONS * 2):
        answer(ledger, "1")
        answer(ledger, str(version + 1))
    entries = {stats.version: stats for stats in report(ledger)}
    assert entries["1"].inference_stats.success.count == KEPT_VERSIONS * 2 - 1


def test_an_entry_without_a_version_appears_only_with_counts():
    ledger = Ledger()
    assert [stats.version for stats in report(ledger, loaded=(4,))] == ["4"]
    assert counts(report(ledger, loaded=(4,))[0]).total() == 0
    ledger.on_refused("m", "INVALID_ARGUMENT")
    assert [stats.version for stats in report(ledger, loaded=(4,))] == ["4", ""]
    answer(ledger, "4")
    ledger.on_refused("m", "INVALID_ARGUMENT")
    known = {stats.version: stats.inference_stats.fail.count for stats in report(ledger)}
    assert known == {"4": 1, "": 1}


def test_responses_are_counted_by_index_up_to_a_bound():
    ledger = Ledger()
    for index in range(KEPT_RESPONSES + 10):
        ledger.on_response("m", "1", index, 0.5)
    (stats,) = report(ledger)
    assert len(stats.response_stats) == KEPT_RESPONSES
    assert stats.response_stats["0"].success.ns == 500_000_000
    assert stats.response_stats[str(KEPT_RESPONSES - 1)].success.count == 11


async def statistics(client) -> dict[str, int]:
    reply = await client.get_inference_statistics("sum")
    return {stats.version: stats.inference_stats.success.count for stats in reply.model_stats}


async def test_statistics_outlive_replicas_and_add_versions_up(replica, gateway, connect):
    first, second = replica("--version", "1"), replica("--version", "2")
    process = gateway(first, second)
    client = connect(process)
    assert await statistics(client) == {"1": 0, "2": 0}, "loaded, not asked yet"
    versions = [(await ask(client, rows())).get_response().model_version for _ in range(10)]
    before = await statistics(client)
    assert before == {"1": versions.count("1"), "2": versions.count("2")}
    port = first.port
    first.kill()
    for _ in range(5):
        await ask(client, rows())
    after = await statistics(client)
    assert after == {"1": before["1"], "2": before["2"] + 5}
    replica("--version", "1", port=port)

    async def both() -> bool:
        return list((await client.get_model_metadata("sum")).versions) == ["1", "2"]

    await until(both)
    await ask(client, rows(), model_version="1")
    assert await statistics(client) == {"1": after["1"] + 1, "2": after["2"]}


async def test_statistics_of_one_version_and_of_none(plain, connect):
    client = connect(plain[0])
    reply = await client.get_inference_statistics("pair", "1")
    assert [(stats.name, stats.version) for stats in reply.model_stats] == [("pair", "1")]
    assert reply.model_stats[0].inference_stats.cache_hit.count == 0
    every = await client.get_inference_statistics()
    assert {"sum", "pair", "count"} <= {stats.name for stats in every.model_stats}
    error = await refused(client.get_inference_statistics("pair", "77"))
    assert code_of(error) == "NOT_FOUND" and "loaded versions: 1" in error.message()
