"""A learner that is stopped and restored goes on as if nothing had happened."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from chassis.errors import DataLoss, InvalidArgument
from headrace.weights import snapshot
from tests.trainer_service.models import ROWS, Tiny
from trainer_service.job.batches import Batches
from trainer_service.job.checkpoints import KEPT, Checkpoints
from trainer_service.job.learner import Learner
from trainer_service.job.ranks import Ranks

pytestmark = pytest.mark.usefixtures("one_thread")


class Restless(Tiny):
    """Draws from every generator while it trains."""

    def loss(self, module, batch):
        noise = random.random() + float(np.random.rand())
        return super().loss(module, batch) * (1 + noise)


def learner(model: Tiny | None = None, *, seed: int = 3) -> Learner:
    return Learner(model or Restless(), Ranks(1), seed=seed)


def advanced(found: Learner, steps: int) -> list[float]:
    return [found.advance() for _ in range(steps)]


@pytest.fixture
def kept_generators():
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.mark.usefixtures("kept_generators")
def test_a_restored_learner_makes_the_same_steps_bit_for_bit(tmp_path):
    checkpoints = Checkpoints(tmp_path, Ranks(1))
    first = learner()
    advanced(first, 17)
    checkpoints.save(first, {"best": 0.5})
    losses = advanced(first, 20)
    second = learner()
    assert checkpoints.restore(second) == {"best": 0.5}
    assert second.step == 17
    assert advanced(second, 20) == losses
    ours, theirs = snapshot(second.module), snapshot(first.module)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.usefixtures("kept_generators")
def test_evaluation_changes_nothing(tmp_path):
    evaluated, left_alone = learner(), None
    losses = []
    for _ in range(6):
        evaluated.evaluate()
        losses.append(evaluated.advance())
    left_alone = learner()
    assert advanced(left_alone, 6) == losses


@pytest.mark.usefixtures("kept_generators")
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "frozen", "unused"])
def test_optimizers_of_every_kind_are_restored(tmp_path, optimizer):
    class Other(Tiny):
        def build(self):
            module = super().build()
            if optimizer == "frozen":
                module[0].weight.requires_grad_(False)
            if optimizer == "unused":
                module.register_parameter("spare", nn.Parameter(torch.zeros(2)))
            return module

        def optimizer(self, module):
            if optimizer in ("frozen", "unused"):
                return torch.optim.AdamW(module.parameters(), lr=1e-2)
            momentum = 0.9 if optimizer == "momentum" else 0.0
            return torch.optim.SGD(module.parameters(), lr=1e-2, momentum=momentum)

    checkpoints = Checkpoints(tmp_path, Ranks(1))
    first = learner(Other())
    advanced(first, 5)
    checkpoints.save(first, {})
    losses = advanced(first, 5)
    second = learner(Other())
    checkpoints.restore(second)
    assert advanced(second, 5) == losses


def test_no_checkpoint_leaves_the_learner_fresh(tmp_path):
    found = learner()
    assert Checkpoints(tmp_path / "none", Ranks(1)).restore(found) == {}
    assert found.step == 0


def test_the_newest_two_are_kept_and_what_is_unfinished_does_not_count(tmp_path):
    checkpoints = Checkpoints(tmp_path, Ranks(1))
    found = learner()
    for _ in range(4):
        advanced(found, 3)
        checkpoints.save(found, {})
    names = [f"step-{step:012d}" for step in (9, 12)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert len(names) == KEPT
    # A job killed before the rename leaves this behind.
    shutil.copytree(tmp_path / names[1], tmp_path / "unfinished")
    (tmp_path / "unfinished" / ".metadata").unlink()
    second = learner()
    checkpoints.restore(second)
    assert second.step == 12
    advanced(second, 1)
    checkpoints.save(second, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [names[1], f"step-{13:012d}"]


def spoilt(folder, what: str) -> None:
    if what == "tensors cut":
        file = folder / "__0_0.distcp"
        file.write_bytes(file.read_bytes()[:1000])
    elif what == "no metadata":
        (folder / ".metadata").unlink()
    elif what == "no tensors":
        (folder / "__0_0.distcp").unlink()
    else:
        (folder / "rank0.json").write_text("{")


@pytest.mark.parametrize("what", ["tensors cut", "no metadata", "no tensors", "facts cut"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, what):
    checkpoints = Checkpoints(tmp_path, Ranks(1))
    first = learner(Tiny())
    advanced(first, 3)
    checkpoints.save(first, {})
    losses = advanced(first, 3)
    checkpoints.save(first, {})
    folders = sorted(tmp_path.iterdir())
    spoilt(folders[1], what)
    second = learner(Tiny())
    checkpoints.restore(second)
    assert second.step == 3
    assert advanced(second, 3) == losses
    spoilt(folders[0], what)
    with pytest.raises(DataLoss, match="none of the run's checkpoints"):
        checkpoints.restore(learner(Tiny()))


def test_a_model_that_has_changed_is_not_filled_with_old_weights(tmp_path):
    class Wider(Tiny):
        def build(self):
            return nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 1))

    checkpoints = Checkpoints(tmp_path, Ranks(1))
    first = learner(Tiny())
    advanced(first, 1)
    checkpoints.save(first, {})
    with pytest.raises(InvalidArgument, match="lacks tensor '2.weight' of the model") as error:
        checkpoints.restore(learner(Wider()))
    assert error.value.reason == "CHECKPOINT_MISMATCH"


def rows_of(batches: Batches, steps: range) -> list[list[float]]:
    return [batches.at(step)[1].flatten().tolist() for step in steps]


def batches(rank: int = 0, world: int = 1, *, rows: int = 8, seed: int = 0) -> Batches:
    return Batches(Tiny().dataset(), rows, seed=seed, rank=rank, world=world)


def test_rows_depend_on_the_step_alone():
    straight = rows_of(batches(), range(40))
    assert rows_of(batches(), range(25, 40)) == straight[25:]
    assert rows_of(batches(seed=1), range(40)) != straight


def test_a_pass_shows_each_row_once_and_the_next_in_another_order():
    per_pass = ROWS // 8
    first = [value for batch in rows_of(batches(), range(per_pass)) for value in batch]
    second = [
        value for batch in rows_of(batches(), range(per_pass, 2 * per_pass)) for value in batch
    ]
    assert len(set(first)) == len(first) == per_pass * 8
    assert first != second


def test_ranks_share_a_pass_without_overlap():
    per_pass = ROWS // 2 // 8
    seen = [
        value
        for rank in range(2)
        for batch in rows_of(batches(rank, 2), range(per_pass))
        for value in batch
    ]
    assert len(set(seen)) == len(seen) == 2 * per_pass * 8


def test_a_dataset_smaller_than_a_batch_is_one_batch():
    assert len(batches(rows=1000).at(3)[0]) == ROWS


def test_a_dataset_smaller_than_the_job_is_refused():
    with pytest.raises(InvalidArgument, match="a row for each of 91 processes"):
        batches(world=ROWS + 1)
