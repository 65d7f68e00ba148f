"""The measuring half of `make gpu-check`, at a small scale and without a GPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu import beside
from benchmarks.gpu.__main__ import NO_DEVICE, main
from tests.inference_service.fake_device import FakeDevice


def test_without_a_device_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert main(["--device", "cuda:1"]) == NO_DEVICE
    assert capsys.readouterr().err == ("torch finds no device cuda:1 here; nothing was measured\n")


def test_every_figure_is_there(capsys):
    assert main(["--device", "cpu", "--mib", "2", "--loads", "2", "--calm-s", "0.1"]) == 0
    text = capsys.readouterr().out
    for words in (
        "a load's way into a slot",
        "a load's way back, digest included",
        "plain, as fast as it goes",
        "plain, paced",
        "graphs, as fast as it goes",
        "graphs, paced",
        "device cpu records none",
    ):
        assert words in text


@pytest.mark.parametrize("paced", [False, True])
def test_recorded_passes_outlive_swaps_and_answer_right(paced):
    with beside.published(1) as (store, model):
        found = beside.measured(
            FakeDevice(), store, model, graphs=True, paced=paced, loads=5, calm_s=0.1
        )
    assert (found.wrong, found.why_no_graphs) == (0, "")
    # Ten sizes up to 32 rows, in two slots.
    assert (found.counts.recorded, found.counts.rerecorded, found.counts.plain) == (20, 0, 0)
    assert found.counts.replays > 20
    assert found.stall_worst_ms >= found.stall_p50_ms
