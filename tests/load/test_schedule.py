"""Schedules: shares, parts, traces that repeat what was recorded."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import InvalidArgument
from headrace.load.arrivals import Arrivals, Spacing
from headrace.load.mix import Mix, Tenant, TrafficClass
from headrace.load.plan import LoadPlan, Trace
from headrace.load.schedule import completed, duration_s, entries_of, planned, recorded
from headrace.load.trace import read_trace, write_trace

MIX = Mix(
    (TrafficClass("gold", priority=1, share=1), TrafficClass("bulk", priority=3, share=4)),
    (Tenant("a", share=3), Tenant("b")),
)


def plan(**changes):
    return LoadPlan(
        **{
            "address": "127.0.0.1:1",
            "model": "m",
            "arrivals": Arrivals.at_rate(1000, 10),
            "mix": MIX,
            "rows": (1, 4),
            **changes,
        }
    )


def of_trace(tmp_path, *lines, **changes):
    file = tmp_path / "trace.jsonl"
    file.write_text("\n".join(lines) + "\n")
    told = plan(arrivals=Trace(file), **changes)
    entries = recorded(told)
    return completed(told, entries), entries


def test_classes_tenants_and_rows_have_their_shares():
    requests = list(planned(plan(), ()))
    count = len(requests)
    classes = Counter(request.class_index for request in requests)
    tenants = Counter(request.tenant_index for request in requests)
    rows = Counter(request.rows for request in requests)
    assert classes[0] / count == pytest.approx(0.2, abs=0.02)
    assert tenants[0] / count == pytest.approx(0.75, abs=0.02)
    assert set(rows) == {1, 2, 3, 4}
    assert min(rows.values()) / count == pytest.approx(0.25, abs=0.03)


@given(st.integers(1, 7), st.integers(0, 1000))
def test_parts_together_are_the_whole(parts, seed):
    load = plan(arrivals=Arrivals.at_rate(2000, 5), seed=seed)
    whole = list(planned(load, ()))
    dealt = [
        request for part in range(parts) for request in planned(load, (), part=part, parts=parts)
    ]
    assert sorted(dealt, key=lambda request: request.number) == whole
    assert [request.number for request in whole] == list(range(len(whole)))


def test_a_warm_up_has_negative_times():
    requests = list(
        planned(plan(arrivals=Arrivals.at_rate(10, 1, Spacing.CONSTANT), warmup_s=1), ())
    )
    assert sum(request.at_s < 0 for request in requests) == 10
    assert sum(request.at_s >= 0 for request in requests) == 10


def test_a_recorded_load_repeats_itself(tmp_path):
    first = list(planned(plan(warmup_s=0.5), ()))
    file = tmp_path / "trace.jsonl"
    with file.open("w") as output:
        write_trace(entries_of(plan(), iter(first)), output)
    told = plan(arrivals=Trace(file), mix=Mix(), rows=(1, 1))
    entries = recorded(told)
    told = completed(told, entries)
    again = list(planned(told, entries))
    counted = [request for request in first if request.at_s >= 0]
    assert len(again) == len(counted)
    for one, other in zip(counted, again, strict=True):
        assert other.at_s == pytest.approx(one.at_s, abs=1e-6)
        assert other.rows == one.rows
        assert told.mix.classes[other.class_index].name == MIX.classes[one.class_index].name
        assert told.mix.classes[other.class_index].priority == MIX.classes[one.class_index].priority
        assert told.mix.tenants[other.tenant_index].name == MIX.tenants[one.tenant_index].name
    assert told.rows == (1, 4)


def test_a_trace_says_what_it_knows_and_the_mix_the_rest(tmp_path):
    told, entries = of_trace(
        tmp_path,
        '{"at_s": 2.0, "class": "gold", "tenant": "c", "rows": 9}',
        '{"at_s": 0.5, "priority": 7}',
        "",
        '{"at_s": 1}',
    )
    requests = list(planned(told, entries))
    names = [told.mix.classes[request.class_index].name for request in requests]
    assert [request.at_s for request in requests] == [0.5, 1, 2]
    assert names[0] == "priority-7" and names[1] in ("gold", "bulk") and names[2] == "gold"
    assert told.mix.classes[requests[0].class_index].priority == 7
    assert told.mix.tenants[requests[2].tenant_index].name == "c"
    assert requests[2].rows == 9
    assert duration_s(told, entries) == 2


def test_a_trace_can_be_cut(tmp_path):
    told, _ = of_trace(tmp_path, *(f'{{"at_s": {at}}}' for at in range(10)))
    cut = replace(told, arrivals=Trace(told.arrivals.file, 3.5))
    assert len(recorded(cut)) == 4


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nonsense", "line 1: it is not JSON"),
        ("[1]", "expected a JSON object"),
        ('{"at": 1}', "'at' is unknown"),
        ('{"class": "gold"}', "expected at_s"),
        ('{"at_s": -1}', "expected at_s"),
        ('{"at_s": true}', "at_s is True"),
        ('{"at_s": 1, "rows": 0}', "rows of 1 or more"),
        ('{"at_s": 1, "rows": "2"}', "rows is '2'"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path, line, says):
    file = tmp_path / "trace.jsonl"
    file.write_text(line)
    with pytest.raises(InvalidArgument) as caught:
        read_trace(file)
    assert caught.value.reason == "BAD_TRACE" and says in caught.value.message


def test_a_trace_that_is_missing_or_empty_is_named(tmp_path):
    with pytest.raises(InvalidArgument, match="cannot be read"):
        read_trace(tmp_path / "none")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(InvalidArgument, match="holds no request"):
        read_trace(tmp_path / "empty")


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrafficClass("total"),
        lambda: TrafficClass("x y"),
        lambda: TrafficClass("x", share=-1),
        lambda: TrafficClass("x", priority=-1),
        lambda: TrafficClass("x", deadline_s=0),
        lambda: Mix((TrafficClass("x"), TrafficClass("x"))),
        lambda: Mix((TrafficClass("x", share=0),)),
        lambda: Tenant("x", token="two words"),
        lambda: plan(rows=(2, 1)),
        lambda: plan(rows=(0, 1)),
        lambda: plan(timeout_s=0),
        lambda: plan(processes=0),
        lambda: plan(max_outstanding=1, processes=2),
        lambda: plan(warmup_s=-1),
        lambda: plan(interval_s=0),
    ],
)
def test_what_makes_no_sense_is_refused(make):
    with pytest.raises(InvalidArgument):
        make()


def test_a_token_is_not_shown():
    assert "secret" not in repr(Mix(tenants=(Tenant("x", token="secret"),)))
