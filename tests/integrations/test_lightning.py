"""LightningPublisher in Lightning's own Trainer, on a tiny module and a real file store."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from structlog.testing import capture_logs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from chassis.errors import InvalidArgument, Unavailable
from headrace import LightningPublisher
from headrace.folder.export import export_folder
from headrace.folder.state import load_folder
from model_store.memory_store import MemoryStore
from tests.integrations.conftest import line

# Of the trainer's own habits, none of ours.
pytestmark = pytest.mark.filterwarnings(
    "ignore:::lightning", "ignore:::torch", "ignore:::pytorch_lightning"
)

ROOT = Path(__file__).parents[2]
X = torch.linspace(-1, 1, 64).reshape(16, 4)


class Regression(pl.LightningModule):
    """Learns the sum of a row; its validation metric is whatever `told` says next."""

    def __init__(self, told: list[float] | None = None) -> None:
        super().__init__()
        self.net = nn.Linear(4, 1)
        self.told = list(told or [])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        return (self.net(batch[0]) - batch[1]).square().mean()

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        pass

    def on_validation_epoch_end(self) -> None:
        if self.told and not self.trainer.sanity_checking:
            self.log("score", self.told.pop(0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(tmp_path, module, *callbacks, ckpt=None, **options):
    """Four steps an epoch."""
    rows = DataLoader(TensorDataset(X, X.sum(dim=1, keepdim=True)), batch_size=4)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(module, rows, rows, ckpt_path=ckpt)
    return trainer


def test_every_n_steps_and_at_the_end(store, tmp_path):
    module = Regression()
    callback = LightningPublisher(store, "m", example_inputs=X, every_steps=3)
    fit(tmp_path, module, callback, max_epochs=2)
    assert line(store) == [(1, 0, 3), (2, 1, 6), (3, 2, 8)]
    assert callback.publishing.versions == 3
    export_folder(store, "m", 3, tmp_path / "out")
    assert load_folder(tmp_path / "out")["net.weight"].equal(module.net.weight)


def test_a_part_alone_is_published(store, tmp_path):
    module = Regression()
    callback = LightningPublisher(store.url, "m", part="net", example_inputs=X, every_steps=4)
    fit(tmp_path, module, callback, max_epochs=1)
    assert [entry.name for entry in store.manifest("m", 1).tensors] == ["bias", "weight"]


def test_accumulated_gradients_count_as_one_step(store, tmp_path):
    callback = LightningPublisher(store, "m", example_inputs=X, every_steps=1)
    fit(tmp_path, Regression(), callback, max_epochs=1, accumulate_grad_batches=2)
    assert line(store) == [(1, 0, 1), (2, 1, 2)]


def test_when_the_metric_improves(store, tmp_path):
    callback = LightningPublisher(store, "m", example_inputs=X, metric="score", minimize=True)
    fit(tmp_path, Regression([0.5, 0.7, 0.4]), callback, max_epochs=3)
    assert line(store) == [(1, 0, 4), (2, 1, 12)]
    assert store.manifest("m", 2).metrics == pytest.approx({"score": 0.4})


def test_a_metric_that_nobody_logs_is_told_once(store, tmp_path):
    callback = LightningPublisher(store, "m", example_inputs=X, metric="scoer")
    with capture_logs() as events:
        fit(tmp_path, Regression([0.5, 0.7, 0.4]), callback, max_epochs=3)
    told = [event for event in events if event["event"] == "the metric to publish by is not there"]
    assert [(event["metric"], event["found"]) for event in told] == [("scoer", ["score"])]
    assert line(store) == []


def test_every_t_seconds(store, tmp_path):
    callback = LightningPublisher(store, "m", example_inputs=X, every_s=1e-6)
    fit(tmp_path, Regression(), callback, max_epochs=1)
    assert line(store) == [(n, n - 1, n) for n in (1, 2, 3, 4)]


def test_the_gate_sees_the_metrics_and_holds_back(store, tmp_path):
    callback = LightningPublisher(
        store, "m", example_inputs=X, every_steps=4, gate=lambda told: told.get("score", 0) > 0.6
    )
    fit(tmp_path, Regression([0.5, 0.7, 0.8]), callback, max_epochs=3)
    # A step is published before the validation that follows it.
    assert line(store) == [(1, 0, 12)]
    assert callback.publishing.withheld == 2


def test_a_resumed_training_continues_its_line(store, tmp_path):
    def callback():
        return LightningPublisher(store, "m", example_inputs=X, metric="score")

    first = fit(tmp_path, Regression([0.5, 0.4]), callback(), max_epochs=2)
    first.save_checkpoint(tmp_path / "last.ckpt")
    module = Regression([0.45, 0.6])
    fit(tmp_path, module, callback(), max_epochs=4, ckpt=tmp_path / "last.ckpt")
    # 0.45 is no improvement on the first training's 0.5.
    assert line(store) == [(1, 0, 4), (2, 1, 16)]


class Away(MemoryStore):
    """Away until `back`."""

    back = False

    def missing_blobs(self, digests):
        if not self.back:
            raise Unavailable("STORE_UNAVAILABLE", "nobody is there")
        return super().missing_blobs(digests)


def test_a_store_that_is_away_does_not_end_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr("headrace.publisher.RETRY_DELAYS_S", ())
    store = Away("lightning-away")
    callback = LightningPublisher(store, "m", example_inputs=X, every_steps=2)
    trainer = fit(tmp_path, Regression(), callback, max_epochs=1)
    assert trainer.global_step == 4
    assert callback.publishing.failures >= 1
    assert callback.publishing.error == "nobody is there"
    store.back = True
    again = LightningPublisher(store, "m", example_inputs=X, every_steps=2)
    fit(tmp_path, Regression(), again, max_epochs=1)
    assert line(store) == [(1, 0, 2), (2, 1, 4)]


def test_raise_errors_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr("headrace.publisher.RETRY_DELAYS_S", ())
    callback = LightningPublisher(
        Away("lightning-raise"), "m", example_inputs=X, every_steps=2, raise_errors=True
    )
    with pytest.raises(Unavailable):
        fit(tmp_path, Regression(), callback, max_epochs=1)


class Diverged(Regression):
    def on_train_batch_start(self, batch, index):
        if self.trainer.global_step == 2:
            with torch.no_grad():
                self.net.weight.fill_(float("nan"))


def test_weights_that_are_not_finite_are_not_published(store, tmp_path):
    callback = LightningPublisher(store, "m", example_inputs=X, every_steps=2)
    fit(tmp_path, Diverged(), callback, max_epochs=1)
    assert line(store) == [(1, 0, 2)]
    assert "holds NaN" in callback.publishing.error


def test_a_newer_publisher_ends_it_for_good(store, tmp_path):
    class Usurper(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 2:
                store.acquire_epoch("m", "another")

    callback = LightningPublisher(store, "m", example_inputs=X, every_steps=1)
    fit(tmp_path, Regression(), callback, Usurper(), max_epochs=2)
    assert line(store) == [(1, 0, 1), (2, 1, 2)]
    assert callback.publishing.failures == 1


def test_what_cannot_work_is_told_before_the_training(store, tmp_path):
    with pytest.raises(InvalidArgument, match="every_steps, every_s or metric"):
        LightningPublisher(store, "m", example_inputs=X)
    with pytest.raises(InvalidArgument, match="every_s: expected 0 or more"):
        LightningPublisher(store, "m", every_s=-1.0)
    with pytest.raises(TypeError, match="example_input'"):
        LightningPublisher(store, "m", example_input=X, every_steps=1)
    with pytest.raises(InvalidArgument):
        fit(tmp_path, Regression(), LightningPublisher("ftp://x", "m", every_steps=1), max_epochs=1)
    absent = LightningPublisher(store, "m", part="head", every_steps=1)
    with pytest.raises(AttributeError, match="head"):
        fit(tmp_path, Regression(), absent, max_epochs=1)


@pytest.mark.timeout(300)
def test_only_rank_zero_publishes(store, tmp_path):
    """Two real processes with DistributedDataParallel."""
    code = f"""
import warnings; warnings.simplefilter("ignore")
from tests.integrations.test_lightning import *
if __name__ == "__main__":
    callback = LightningPublisher({store.url!r}, "m", example_inputs=X, every_steps=1)
    from pathlib import Path
    trainer = fit(Path({str(tmp_path)!r}), Regression(), callback, max_epochs=1, devices=2,
        strategy="ddp")
    assert (callback.publishing is None) != trainer.is_global_zero
"""
    script = tmp_path / "train.py"
    script.write_text(code)
    # Lightning starts the script once more for the second process.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, script], check=True, timeout=280, env=environment)
    assert line(store) == [(1, 0, 1), (2, 1, 2)]


def test_neither_library_is_imported_unless_used():
    code = (
        "import sys, headrace, headrace.integrations.publishing\n"
        "sys.exit(sorted({'lightning', 'transformers'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
