"""The deltas benchmark: sizes that fit together, and a report; how fast is not tested."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

from benchmarks.deltas import runs
from benchmarks.deltas.__main__ import main
from benchmarks.deltas.runs import Run, planned
from benchmarks.deltas.sizes import measure


@pytest.fixture(autouse=True)
def short_training(monkeypatch) -> Iterator[None]:
    monkeypatch.setitem(runs.WARM_UP, "digits", 10)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_way_to_store_a_version_is_measured():
    gentle = measure(Run("digits", "AdamW", 1e-6, torch.bfloat16), 2)
    assert 0 < gentle.changed < 0.05
    assert gentle.by_one > 0.5
    assert gentle.xor_bytes < gentle.zstd_bytes < gentle.full_bytes
    assert gentle.delta_bytes * 10 < gentle.zstd_bytes
    # Every chunk has a word that changed.
    assert gentle.small_chunk_bytes > 0.9 * gentle.full_bytes


def test_a_larger_step_changes_more():
    small, large = (
        measure(Run("digits", "AdamW", rate, torch.bfloat16), 2) for rate in (1e-6, 1e-5)
    )
    assert small.changed < large.changed
    assert small.delta_bytes < large.delta_bytes


def test_the_report_has_every_run(tmp_path, capsys):
    assert main(["--no-encoder", "--versions", "1", "--json", str(tmp_path / "deltas.json")]) == 0
    record = json.loads((tmp_path / "deltas.json").read_text())
    names = [str(run) for run in planned(encoder=False)]
    assert [row["run"] for row in record["runs"]] == names
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
