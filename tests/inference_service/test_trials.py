"""The choice of engine and precision by measurement: what is measured, what wins, that it stays."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from headrace.cli.calls import engine_text, trial_rows
from inference_service.architecture import Choice
from inference_service.engines.compiler import Compiler
from inference_service.engines.engine import AUTO
from inference_service.trials import Trial, best_of
from tests.inference_service.follower import Follower
from tests.inference_service.line import expected
from tests.inference_service.served_replica import ServedReplica
from tests.inference_service.test_engines import COMPILING_S, CPU, compiled_folder

__all__ = ["compiled_folder"]

X = np.ones((2, 4), np.float32)


def trial(engine: str, *seconds: float, why_not: str = "") -> Trial:
    return Trial(engine, "published", dict(enumerate(seconds, 1)), why_not)


def test_the_fastest_over_all_batch_sizes_wins():
    assert best_of([trial("a", 1.0, 4.0), trial("b", 0.5, 3.0), trial("c", 0.9, 2.0)]) == 1
    assert best_of([trial("a", 1.0, 4.0), trial("b", 0.5, 9.0), trial("c", 0.9, 2.0)]) == 2


def test_what_was_published_stays_unless_another_gains_something():
    assert best_of([trial("a", 1.0, 1.0), trial("b", 0.97, 0.96)]) == 0
    assert best_of([trial("a", 1.0, 1.0), trial("b", 0.94, 0.94)]) == 1


def test_a_candidate_without_figures_never_wins_over_one_with():
    assert best_of([trial("a", 1.0), trial("b", why_not="no g++")]) == 0
    assert best_of([trial("a", why_not="PROBE_FAILED"), trial("b", 3.0)]) == 1


@pytest.mark.timeout(COMPILING_S)
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_choice_is_made_once_and_kept(line, store_url, compiled_folder):
    line.publish(1.0)
    compiler = Compiler(CPU, folder=str(compiled_folder))
    with Follower(
        store_url,
        choice=Choice(AUTO),
        compiler=compiler,
        precisions=("published", "bf16"),
        trial_budget_s=COMPILING_S,
    ) as follower:
        report = follower.wait(lambda s: s.serving_version == 1, within_s=COMPILING_S).engine
        assert [(t.engine, t.precision) for t in report.trials] == [
            ("exported", "published"),
            ("compiled", "published"),
            ("exported", "bf16"),
            ("compiled", "bf16"),
        ]
        assert all(list(t.seconds) == [1, 4, 8] for t in report.trials), report.trials
        best = report.trials[best_of(report.trials)]
        assert (report.engine, report.precision) == (best.engine, best.precision)
        jobs = compiler.jobs
        for weight in (2.0, 3.0):
            snapshot = follower.wait_serving(line.publish(weight))
            assert snapshot.engine == report
            np.testing.assert_array_equal(follower.answer(X)[1], expected(weight, X))
        assert compiler.jobs == jobs


def test_without_a_compiler_the_rest_is_measured(line, store_url, monkeypatch):
    monkeypatch.setenv("PATH", "")
    line.publish(1.0)
    with Follower(store_url, choice=Choice(AUTO)) as follower:
        report = follower.wait_serving(1).engine
        assert (report.engine, report.why_not) == ("exported", "")
        assert report.trials[1].why_not == "not compiled: there is no g++ on this machine"
        assert not report.trials[1].seconds


def test_a_budget_that_is_over_leaves_the_version_as_published(line, store_url):
    line.publish(1.0)
    with Follower(store_url, choice=Choice(AUTO), trial_budget_s=0.0) as follower:
        report = follower.wait_serving(1).engine
        assert report.engine == "exported"
        assert {t.why_not for t in report.trials} == {"not measured: the 0 s for it were over"}


def test_a_precision_that_the_probe_refuses_is_not_chosen(line, store_url, monkeypatch):
    monkeypatch.setenv("PATH", "")
    line.publish(60000.0)
    follower = Follower(store_url, choice=Choice(AUTO), precisions=("published", "fp16"))
    with follower:
        report = follower.wait_serving(1).engine
        assert (report.engine, report.precision) == ("exported", "published")
        assert report.trials[2].why_not.startswith("PROBE_FAILED")


async def test_status_tells_what_computes(line, store_url, monkeypatch):
    monkeypatch.setenv("PATH", "")
    line.publish(1.0)
    async with ServedReplica(store_url, engine="auto", precision="bf16") as replica:
        status = await replica.wait_serving(1)
        assert (status.engine.engine, status.engine.precision) == ("exported", "bf16")
        assert engine_text(status) == "exported, bf16"
        rows = trial_rows("here", await replica.status())
        assert [row["engine"] for row in rows] == ["exported", "compiled"]
        assert rows[0]["forward_us"].startswith("1 rows ")
        assert rows[1]["why_not"] == "not compiled: there is no g++ on this machine"
