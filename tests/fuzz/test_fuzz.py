"""A short run of `make fuzz`: damaged and hostile requests at a live gateway and replica."""

from __future__ import annotations

import pytest

from tests.fuzz.campaign import run
from tests.fuzz.plan import shot_of, shots

pytestmark = pytest.mark.system

MUTATIONS, HOSTILE = 1_500, 300


def test_a_short_run_breaks_nothing(tmp_path):
    report = run(tmp_path, seed=0, mutations=MUTATIONS, hostile=HOSTILE)
    assert report.broken == [], report.line()
    calls = [count for ending, count in report.endings.items() if "in a stream" not in ending]
    assert sum(calls) == MUTATIONS + HOSTILE
    for server in ("gateway", "replica"):
        assert report.witness[server]["requests"] > 0
        assert report.endings[f"{server} gRPC INVALID_ARGUMENT"] > 100
        assert report.endings[f"{server} HTTP HTTP 400"] > 20


def test_a_seed_brings_every_shot_back():
    planned = list(shots(7, 50, 10))
    assert planned == list(shots(7, 50, 10))
    assert [shot_of(shot.label) for shot in planned] == planned
