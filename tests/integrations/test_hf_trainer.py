"""HFTrainerPublisher in Hugging Face's own Trainer, on a tiny BERT and a real file store."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch.utils.data import Dataset

from chassis.errors import InvalidArgument, Unavailable
from headrace import HFTrainerPublisher, TensorSpec, export_folder
from model_store.memory_store import MemoryStore
from tests.integrations.conftest import line

# Of the trainer's own habits, none of ours.
pytestmark = pytest.mark.filterwarnings(
    "ignore:::transformers", "ignore:::accelerate", "ignore:::torch"
)

SHAPES = {
    "inputs": [TensorSpec("input_ids", "INT64", (-1, -1))],
    "outputs": [TensorSpec("logits", "FP32", (-1, 2))],
}


class Rows(Dataset):
    """Eight rows: two steps an epoch."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.arange(at, at + 5), "labels": torch.tensor(at % 2)}


def classifier() -> transformers.BertForSequenceClassification:
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, max_position_embeddings=16, num_labels=2, **sizes
    )
    return transformers.BertForSequenceClassification(config)


def trainer(tmp_path, callback, *, told=(), **options) -> transformers.Trainer:
    """Evaluations give the scores `told`, one after another."""
    scores = iter(told)
    arguments = transformers.TrainingArguments(
        tmp_path / "run",
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **{"save_strategy": "no", "num_train_epochs": 3, **options},
    )
    return transformers.Trainer(
        classifier(),
        arguments,
        train_dataset=Rows(),
        eval_dataset=Rows(),
        compute_metrics=lambda _: {"score": next(scores)},
        callbacks=[callback],
    )


def test_every_n_steps_and_at_the_end(store, tmp_path):
    callback = HFTrainerPublisher(store, "m", every_steps=4, **SHAPES)
    made = trainer(tmp_path, callback)
    made.train()
    assert line(store) == [(1, 0, 4), (2, 1, 6)]
    export_folder(store, "m", 2, tmp_path / "out")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    ours, theirs = loaded.state_dict(), made.model.state_dict()
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_when_the_metric_improves(store, tmp_path):
    callback = HFTrainerPublisher(store, "m", metric="eval_score", **SHAPES)
    made = trainer(tmp_path, callback, told=[0.5, 0.4, 0.6, 0.9], eval_strategy="epoch")
    made.train()
    assert line(store) == [(1, 0, 2), (2, 1, 6)]
    metrics = store.manifest("m", 2).metrics
    assert metrics["eval_score"] == 0.6
    assert metrics["eval_loss"] > 0
    # An evaluation by hand, after the training, publishes nothing.
    made.evaluate()
    assert len(line(store)) == 2


def test_metrics_of_several_evaluations_come_together(store, tmp_path):
    callback = HFTrainerPublisher(store, "m", metric="eval_two_score", **SHAPES)
    made = trainer(tmp_path, callback, told=[0.5, 0.6], eval_strategy="epoch", num_train_epochs=1)
    made.eval_dataset = {"one": Rows(), "two": Rows()}
    made.train()
    metrics = store.manifest("m", 1).metrics
    assert (metrics["eval_one_score"], metrics["eval_two_score"]) == (0.5, 0.6)


@pytest.mark.parametrize("gate", [lambda told: told["eval_score"] > 0.55, {"eval_score": ">0.55"}])
def test_the_gate_holds_back(store, tmp_path, gate):
    callback = HFTrainerPublisher(store, "m", metric="eval_score", gate=gate, **SHAPES)
    trainer(tmp_path, callback, told=[0.5, 0.6, 0.7], eval_strategy="epoch").train()
    assert line(store) == [(1, 0, 4), (2, 1, 6)]
    assert callback.publishing.withheld == 1


def test_every_t_seconds(store, tmp_path):
    callback = HFTrainerPublisher(store, "m", every_s=1e-6, **SHAPES)
    trainer(tmp_path, callback, num_train_epochs=1).train()
    assert line(store) == [(1, 0, 1), (2, 1, 2)]


def test_with_every_checkpoint(store, tmp_path):
    callback = HFTrainerPublisher(store, "m", on_save=True, every_steps=3, **SHAPES)
    trainer(tmp_path, callback, save_strategy="steps", save_steps=2).train()
    # Step 6 is due by both, and published once.
    assert line(store) == [(1, 0, 2), (2, 1, 3), (3, 2, 4), (4, 3, 6)]


def test_a_resumed_training_continues_its_line(store, tmp_path):
    options = {"eval_strategy": "epoch", "save_strategy": "steps", "save_steps": 4}
    callback = HFTrainerPublisher(store, "m", metric="eval_score", **SHAPES)
    trainer(tmp_path, callback, told=[0.5, 0.4], num_train_epochs=2, **options).train()
    assert line(store) == [(1, 0, 2)]
    callback = HFTrainerPublisher(store, "m", metric="eval_score", **SHAPES)
    again = trainer(tmp_path, callback, told=[0.45, 0.6], num_train_epochs=4, **options)
    again.train(resume_from_checkpoint=True)
    # 0.45 is no improvement on the first training's 0.5.
    assert line(store) == [(1, 0, 2), (2, 1, 8)]


class Away(MemoryStore):
    """Nobody answers."""

    def missing_blobs(self, digests):
        raise Unavailable("STORE_UNAVAILABLE", "nobody is there")


def test_a_store_that_is_away_does_not_end_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr("headrace.publisher.RETRY_DELAYS_S", ())
    callback = HFTrainerPublisher(Away("hf-away"), "m", every_steps=2, **SHAPES)
    made = trainer(tmp_path, callback)
    made.train()
    assert made.state.global_step == 6
    assert callback.publishing.failures >= 1
    assert callback.publishing.error == "nobody is there"


def test_raise_errors_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr("headrace.publisher.RETRY_DELAYS_S", ())
    callback = HFTrainerPublisher(Away("hf-raise"), "m", every_steps=2, raise_errors=True, **SHAPES)
    with pytest.raises(Unavailable):
        trainer(tmp_path, callback).train()


def test_what_cannot_work_is_told_before_the_training(store):
    with pytest.raises(InvalidArgument, match="every_steps, every_s or metric"):
        HFTrainerPublisher(store, "m")
    with pytest.raises(TypeError, match="example_input'"):
        HFTrainerPublisher(store, "m", example_input=1, on_save=True)


def test_another_process_than_the_first_publishes_nothing(store, tmp_path):
    callback = HFTrainerPublisher(store, "m", every_steps=1, **SHAPES)
    made = trainer(tmp_path, callback, num_train_epochs=1)
    made.is_world_process_zero = lambda: False
    made.train()
    assert made.state.global_step == 2
    assert (callback.publishing, line(store)) == (None, [])
