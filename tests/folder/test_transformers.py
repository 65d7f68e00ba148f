"""A model goes through the store and back into real transformers, with equal weights."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from headrace import Publisher, TensorSpec, export_folder
from headrace.folder.state import fill, load_folder
from model_store import Store

pytestmark = pytest.mark.filterwarnings("ignore:::transformers")

IDS = [TensorSpec("input_ids", "INT64", (-1, -1)), TensorSpec("attention_mask", "INT64", (-1, -1))]


def classifier() -> transformers.BertForSequenceClassification:
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=32, max_position_embeddings=32, num_labels=3, **sizes
    )
    return transformers.BertForSequenceClassification(config)


def writer() -> transformers.GPT2LMHeadModel:
    """Its output layer is tied to its embedding."""
    config = transformers.GPT2Config(
        vocab_size=100,
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=32,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def publish(store: Store, module: torch.nn.Module, datatype: str = "FP32") -> None:
    outputs = [TensorSpec("logits", datatype, (-1, 3))]
    with Publisher(store, "m", inputs=IDS, outputs=outputs) as publisher:
        publisher.publish(module, step=7)


def same(found: torch.nn.Module, expected: torch.nn.Module) -> bool:
    ours, theirs = found.state_dict(), expected.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and ours[name].equal(theirs[name]) for name in ours
    )


@pytest.mark.parametrize("shard_bytes", [10**9, 10_000])
@pytest.mark.parametrize(("dtype", "datatype"), [(torch.float32, "FP32"), (torch.bfloat16, "BF16")])
def test_from_pretrained_reads_an_export(store, tmp_path, shard_bytes, dtype, datatype):
    module = classifier().to(dtype)
    publish(store, module, datatype)
    written = export_folder(store, "m", 1, tmp_path / "out", shard_bytes=shard_bytes)
    assert (len(written) == 2) == (shard_bytes == 10**9)
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert type(loaded) is transformers.BertForSequenceClassification
    assert same(loaded, module)
    assert loaded.config.headrace["version"] == 1
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["model_type"], config["architectures"]) == (
        "bert",
        ["BertForSequenceClassification"],
    )
    ids = torch.arange(10).reshape(2, 5)
    with torch.no_grad():
        assert loaded.eval()(ids).logits.equal(module.eval()(ids).logits)


def test_tied_weights_come_back_tied(store, tmp_path):
    module = writer()
    outputs = [TensorSpec("logits", "FP32", (-1, -1, 100))]
    with Publisher(store, "m", inputs=IDS[:1], outputs=outputs) as publisher:
        publisher.publish(module)
    export_folder(store, "m", 1, tmp_path / "out")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert same(loaded, module)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight


@pytest.mark.parametrize("make", [classifier, writer])
@pytest.mark.parametrize("shard_size", ["1GB", "10KB"])
def test_a_saved_model_is_read(tmp_path, make, shard_size):
    saved, target = make(), make()
    saved.save_pretrained(tmp_path / "saved", max_shard_size=shard_size)
    assert (tmp_path / "saved/model.safetensors").exists() == (shard_size == "1GB")
    assert load_folder(tmp_path / "saved").keys() <= saved.state_dict().keys()
    fill(target, tmp_path / "saved", "m")
    assert same(target, saved)


def test_every_version_shares_one_configuration(store):
    module = classifier()
    outputs = [TensorSpec("logits", "FP32", (-1, 3))]
    with Publisher(store, "m", inputs=IDS, outputs=outputs) as publisher:
        publisher.publish(module)
        publisher.publish(module)
    first, second = store.manifest("m", 1).config, store.manifest("m", 2).config
    assert first == second is not None
    assert store.read_blob(first.digest)[:1] == b"{"
