"""The character-level model: it learns to write, and its text streams out of the real services."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chassis.errors import InvalidArgument
from examples.characters import ALPHABET, MOST_TOKENS, TEXT, Characters, Scribe, encoded
from headrace import Client, Publisher
from headrace.program import DATATYPES
from inference_service.buffers import tensor_of
from model_store import Store, open_store
from model_store.chain import Chain
from protos.headrace.v1 import trainer_pb2
from tests.system.stack import Stack, wait_until
from tests.trainer_service.service import TrainerService

PROMPT = b"The wheel "
COUNT = 60


def asked(prompt: bytes = PROMPT, count: int = COUNT):
    return {
        "prompt": np.array([prompt], dtype=np.object_),
        "max_new_tokens": np.array([count], dtype=np.int32),
    }


def written(module: Scribe, prompt: bytes = PROMPT, count: int = COUNT) -> list[str]:
    """What the module writes, without any server."""
    inputs = asked(prompt, count)
    given = inputs | {"max_new_tokens": torch.from_numpy(inputs["max_new_tokens"])}
    with torch.inference_mode():
        return [response["text"][0] for response in Characters().generate(module, given)]


def stored(store: Store, version: int) -> Scribe:
    """The module with the weights of a version, read from the store."""
    module = Scribe().eval()
    cpu = torch.device("cpu")
    manifest = store.manifest("characters", version)
    chain = Chain(manifest, store.read_blob)
    module.load_state_dict(
        {
            entry.name: tensor_of(chain.content(entry), entry.datatype, entry.shape, cpu).clone()
            for entry in manifest.tensors
        }
    )
    assert {DATATYPES[value.dtype] for value in module.state_dict().values()} == {"FP32"}
    return module


def test_it_learns_to_write_words_of_its_text():
    torch.manual_seed(0)
    model, words = Characters(), set(TEXT.split())
    module = model.build()
    optimizer = model.optimizer(module)
    rows = model.dataset()

    def known_words() -> int:
        return sum(word in words for word in "".join(written(module)).split())

    with torch.no_grad():
        first, before = model.evaluate(module), known_words()
    for _ in range(150):
        batch = [rows[int(at)][0] for at in torch.randint(len(rows), (model.batch_size,))]
        optimizer.zero_grad()
        model.loss(module, (torch.stack(batch),)).backward()
        optimizer.step()
    with torch.no_grad():
        last, after = model.evaluate(module), known_words()
    assert first["accuracy"] < 0.2 < 0.5 < last["accuracy"]
    assert last["loss"] < first["loss"] - 1
    assert before < 3
    assert after >= 8


def test_a_letter_at_a_time_is_what_the_whole_text_says():
    torch.manual_seed(1)
    module = Scribe()
    text = written(module, count=20)
    with torch.inference_mode():
        for at in range(20):
            scores, _ = module(encoded(PROMPT.decode() + "".join(text[:at]))[None])
            assert ALPHABET[int(scores[0, -1].argmax())] == text[at]


@pytest.mark.parametrize(
    ("prompt", "count", "reason"),
    [
        (b"", 5, "EMPTY_PROMPT"),
        (b"x", 0, "BAD_MAX_NEW_TOKENS"),
        (b"x", MOST_TOKENS + 1, "BAD_MAX_NEW_TOKENS"),
    ],
)
def test_what_it_cannot_do_it_says(prompt, count, reason):
    with pytest.raises(InvalidArgument) as caught:
        written(Scribe(), prompt, count)
    assert caught.value.reason == reason


def test_any_bytes_are_a_prompt():
    assert len(written(Scribe(), bytes(range(256)) * 3, 4)) == 4


@pytest.mark.system
def test_text_streams_from_a_trainer_s_versions_through_gateway_and_replica(tmp_path):
    url = f"file://{tmp_path}/store"
    trainer = TrainerService(tmp_path).start()
    stack = Stack(tmp_path, url, "characters")
    try:
        stack.start(replicas=2)
        spec = trainer_pb2.RunSpec(
            model="examples.characters:Characters",
            store=url,
            max_steps_per_s=40,
            publish=trainer_pb2.PublishPolicy(every_steps=10),
        )
        trainer.stub.StartRun(trainer_pb2.StartRunRequest(run_id="write", spec=spec))
        with Client(stack.gateway.address) as client, open_store(url) as store:
            wait_until(lambda: client.ready("characters"), within_s=60, what="a version serves")
            _check_while_versions_change(client, store)
            with pytest.raises(InvalidArgument, match="the prompt is empty") as caught:
                list(client.generate("characters", asked(b"")))
            assert caught.value.reason == "EMPTY_PROMPT"
    finally:
        try:
            codes = stack.stop()
        finally:
            code = trainer.terminate()
    assert [*codes, code] == [0, 0, 0, 0]


def _check_while_versions_change(client: Client, store: Store) -> None:
    """Texts of at least four versions, each what that version writes by itself."""
    texts: dict[int, str] = {}

    def ask() -> bool:
        parts = list(client.generate("characters", asked()))
        (version,) = {part.version for part in parts}
        assert [part["text"].shape for part in parts] == [(1,)] * COUNT
        texts[version] = b"".join(part["text"][0] for part in parts).decode()
        return len(texts) >= 4

    wait_until(ask, within_s=60, what="four versions wrote")
    for version, text in texts.items():
        assert text == "".join(written(stored(store, version))), f"version {version}"
    assert len(set(texts.values())) > 1


def test_it_is_published_from_any_loop(tmp_path):
    model = Characters()
    with Publisher(f"file://{tmp_path}/store", model) as publisher:
        assert publisher.publish(model.build()) == 1
        manifest = publisher.store.manifest("characters", 1)
        path = publisher.store.read_blob(manifest.program.digest)
    assert path == b"examples.characters:Characters"
