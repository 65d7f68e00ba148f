"""The seam to a device: one contract for all kinds, and the order that loads and batches keep."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from chassis.tensors import Signature, TensorSpec
from inference_service.device.device import Device, InOrder
from inference_service.device.graph_pool import GraphCounts, GraphPool
from inference_service.device.handover import Handover
from inference_service.device.kinds import device_of
from inference_service.device.pinned_staging import PinnedStaging
from inference_service.device.slot_memory import ALIGNED_BYTES, laid_out
from inference_service.engines.eager import Eager
from inference_service.engines.graphed import Graphed, row_sizes
from inference_service.faults import ModelFailure
from inference_service.instance import Instance
from inference_service.policy.staging_rate import StagingRate
from inference_service.precision import Tolerance
from inference_service.staging import Paced, Staging
from model_store.digests import digest
from tests.inference_service.fake_device import FakeDevice, Race
from tests.inference_service.line import SIGNATURE, Affine, expected
from tests.inference_service.served_replica import ServedReplica

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)
EXACT = Tolerance(0.0, 0.0)
NEAR = Tolerance(1e-4, 1e-3)


def opened(kind: str) -> Device:
    if kind == "in order":
        return InOrder()
    return FakeDevice() if kind == "fake" else device_of(torch.device("cuda:0"))


@pytest.fixture(params=["in order", "fake", CUDA])
def device(request) -> Device:
    return opened(request.param)


@pytest.fixture(params=["fake", CUDA])
def recorder(request) -> Iterator[Device]:
    made = opened(request.param)
    with torch.inference_mode():
        yield made


def filled(device: Device, size: int, value: int) -> torch.Tensor:
    memory = device.host_memory(size)
    memory.fill_(value)
    return memory


def there(device: Device, size: int) -> torch.Tensor:
    made = torch.zeros(size, dtype=torch.uint8, device=device.torch_device)
    if device.torch_device.type == "cuda":
        torch.cuda.synchronize()
    return made


# Every kind.


def test_what_a_mark_is_behind_is_done_when_it_was_waited_for(device):
    target, back = there(device, 1000), device.host_memory(1000)
    with device.lane().entered():
        device.copy(filled(device, 1000, 7), target)
        device.copy(target, back)
        mark = device.current().mark()
    device.wait(mark)
    assert back.tolist() == [7] * 1000


def test_a_lane_that_follows_a_mark_sees_what_was_done_before(device):
    one, other = device.lane(), device.inference
    target, back = there(device, 2**22), device.host_memory(2**22)
    with one.entered():
        for value in range(1, 6):
            device.copy(filled(device, 2**22, value), target)
        mark = one.mark()
    with other.entered():
        other.follow(mark)
        device.copy(target, back)
        device.wait(other.mark())
    assert back.unique().tolist() == [5]


def test_the_lane_entered_is_the_current_one(device):
    lanes = [device.lane(), device.inference]
    for lane in lanes:
        with lane.entered():
            assert device.current() == lane
    with lanes[0].entered():
        with lanes[1].entered():
            assert device.current() == lanes[1]
        assert device.current() == lanes[0]


@pytest.mark.parametrize("pace", [Staging, lambda: Paced(StagingRate(floor=2**40))])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (1000,), (17, 31), (64, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64])
def test_tensors_go_through_chunks_and_back(device, pace, shape, dtype):
    staging = PinnedStaging(pace(), device, count=2, size=512)
    with device.lane().entered(), staging.during():
        for _ in range(3):
            source = torch.randint(0, 2, shape).to(dtype)
            target = torch.empty(shape, dtype=dtype, device=device.torch_device)
            staging.copy(source, target)
            wanted = digest(source.reshape(-1).view(torch.uint8).numpy().data)
            # What is to be copied may change: it lies in chunks.
            source.zero_()
            assert staging.digest_of(target) == wanted


def test_what_does_not_lie_densely_is_copied_and_digested_all_the_same(device):
    staging = PinnedStaging(Staging(), device, count=2, size=512)
    source = torch.randn(40, 30).t()
    target = torch.empty(30, 40, device=device.torch_device)
    with device.lane().entered():
        staging.copy(source, target)
        assert staging.digest_of(target) == digest(source.contiguous().numpy().data)
        turned = torch.empty(40, 30, device=device.torch_device).t()
        staging.copy(source.contiguous(), turned)
        assert torch.equal(turned.cpu(), source)


def test_a_slot_is_one_piece_of_memory(device):
    layout = {
        "weight": (torch.bfloat16, (3, 5)),
        "empty": (torch.float32, (0, 4)),
        "count": (torch.int64, ()),
        "mask": (torch.bool, (300,)),
    }
    tensors = laid_out(layout, device.torch_device)
    assert {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()} == layout
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) == 1
    for number, tensor in enumerate(tensors.values()):
        assert tensor.is_contiguous()
        assert tensor.storage_offset() * tensor.element_size() % ALIGNED_BYTES == 0
        tensor.fill_(number % 2)
    assert tensors["mask"].all()
    assert tensors["count"].item() == 0
    assert laid_out({}, device.torch_device) == {}


# Those that record.


class Reported(Eager):
    """Tells a fake device what a pass reads."""

    def __init__(self, module: nn.Module, device: Device) -> None:
        super().__init__(module)
        self.device, self.module, self.passes = device, module, 0

    def forward(self, inputs):
        self.passes += 1
        if isinstance(self.device, FakeDevice):
            self.device.touch([value.detach() for value in self.module.parameters()])
        return super().forward(inputs)


def graphed(recorder: Device, *, pool: GraphPool | None = None, module: nn.Module | None = None):
    module = (module or Affine(2.0, 1.0)).to(recorder.torch_device).eval()
    inner = Reported(module, recorder)
    engine = Graphed(inner, SIGNATURE, pool or GraphPool(recorder), NEAR)
    engine.bind({name: value.detach() for name, value in module.state_dict().items()})
    return engine


def rows(recorder: Device, count: int, value: float = 1.0) -> torch.Tensor:
    return torch.full((count, 4), value, device=recorder.torch_device)


def recorded(recorder: Device, **how) -> Graphed:
    engine = graphed(recorder, **how)
    for count in engine.recorded_rows():
        engine.record([rows(recorder, count)])
    return engine


def test_sizes_a_third_to_a_half_apart():
    assert row_sizes(1) == [1]
    assert row_sizes(8) == [8, 6, 4, 3, 2, 1]
    assert row_sizes(100)[:4] == [100, 96, 64, 48]


def test_a_batch_of_any_size_is_a_recording_and_gives_its_rows(recorder):
    engine = recorded(recorder)
    assert engine.sizes == [1, 2, 3, 4, 6, 8]
    plain, before = engine.inner.passes, engine.pool.counts()
    for count in (8, 1, 5, 7, 2):
        x = torch.arange(4.0 * count, device=recorder.torch_device).reshape(count, 4)
        (y,) = engine.forward([x])
        np.testing.assert_allclose(y.cpu(), expected(2.0, x.cpu().numpy(), 1.0), rtol=1e-4)
    counts = engine.pool.counts()
    assert (counts.replays - before.replays, counts.plain) == (5, 0)
    if isinstance(recorder, FakeDevice):
        assert engine.inner.passes == plain + 5  # The fake's replays compute by it.


def test_weights_rewritten_in_place_are_the_next_replays(recorder):
    engine = recorded(recorder)
    engine.inner.module.weight.fill_(3.0)
    x = rows(recorder, 8)
    for count in engine.recorded_rows():
        engine.record([rows(recorder, count)])
    (y,) = engine.forward([x])
    np.testing.assert_allclose(y.cpu(), expected(3.0, x.cpu().numpy(), 1.0), rtol=1e-4)
    assert engine.pool.counts().recorded == 6
    assert engine.pool.counts().rerecorded == 0


def test_weights_that_moved_are_not_read_where_they_lay(recorder):
    engine = recorded(recorder)
    module = engine.inner.module
    moved = {name: value.detach().clone() * 2 for name, value in module.state_dict().items()}
    module.load_state_dict(moved, assign=True)
    engine.bind(moved)
    x = rows(recorder, 6)
    for _ in range(2):
        (y,) = torch.atleast_3d(torch.stack(tuple(engine.forward([x])))).reshape(1, 6, 3)
        np.testing.assert_allclose(y.cpu(), expected(4.0, x.cpu().numpy(), 2.0), rtol=1e-4)
        engine.record([x])
    assert engine.pool.counts() == GraphCounts(7, 1, 6 + 1 + 1, 1)


def test_shapes_that_were_not_recorded_are_computed_and_counted(recorder):
    signature = Signature(
        (TensorSpec("x", "FP32", (-1, -1)),), (TensorSpec("y", "FP32", (-1, -1)),), 4
    )
    engine = Graphed(Eager(nn.Identity()), signature, GraphPool(recorder), EXACT)
    engine.bind({})
    engine.record([rows(recorder, 4)])
    x = torch.randn(2, 9, device=recorder.torch_device)
    assert torch.equal(engine.forward([x]), x)
    assert engine.pool.counts().plain == 1
    (y,) = engine.forward([rows(recorder, 3, 5.0)])
    assert torch.equal(y, rows(recorder, 3, 5.0))
    # More rows than the largest.
    engine.forward([rows(recorder, 5)])
    assert engine.pool.counts().plain == 2


def test_a_model_without_a_batch_is_recorded_as_it_is(recorder):
    signature = Signature((TensorSpec("x", "FP32", (2,)),), (TensorSpec("y", "FP32", (2,)),), 0)
    engine = Graphed(Eager(nn.ReLU()), signature, GraphPool(recorder), EXACT)
    engine.bind({})
    assert engine.recorded_rows() == (0,)
    engine.record([torch.ones(2, device=recorder.torch_device)])
    (y,) = engine.forward([torch.tensor([-1.0, 2.0], device=recorder.torch_device)])
    assert y.tolist() == [0.0, 2.0]
    assert engine.sizes == [0]


class Waits(Affine):
    """Needs a value on the host, which no graph does."""

    def forward(self, x):
        return super().forward(x) if float(x.sum()) else x[:, :3]


def test_what_cannot_be_recorded_goes_on_without_and_says_why(recorder):
    if isinstance(recorder, FakeDevice):
        recorder.refuses = "the stream was waited for"
    pool = GraphPool(recorder)
    engine = recorded(recorder, module=Waits(2.0), pool=pool)
    assert engine.why_not.startswith("not recorded: ")
    assert engine.recorded_rows() == ()
    x = rows(recorder, 2)
    np.testing.assert_allclose(engine.forward([x]).cpu(), expected(2.0, x.cpu().numpy()), rtol=1e-4)
    assert pool.counts().plain == 1
    # It hurts nobody else, not even one who draws numbers.
    assert torch.rand(3, device=recorder.torch_device).max() < 1
    if isinstance(recorder, FakeDevice):
        recorder.refuses = ""
    assert recorded(recorder, pool=pool).sizes == [1, 2, 3, 4, 6, 8]


class Counting(nn.Module):
    """Answers differently each time."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)
        return x[:, :3] + self.calls


def test_a_recording_that_gives_other_results_is_not_used(recorder):
    engine = recorded(recorder, module=Counting())
    assert engine.why_not == "not recorded: repeated, the pass gives other results"


def test_generators_and_bytes_are_never_recorded(recorder):
    spec = TensorSpec("x", "BYTES", (-1,))
    for signature, why in (
        (Signature((spec,), (spec,), 8), "BYTES are computed on the host"),
        (
            Signature(SIGNATURE.inputs, SIGNATURE.outputs, 8, decoupled=True),
            "a generative model computes one step after another",
        ),
    ):
        engine = Graphed(Eager(nn.Identity()), signature, GraphPool(recorder), EXACT)
        assert engine.recorded_rows() == ()
        assert engine.why_not == why


def test_two_slots_share_memory_and_take_turns(recorder):
    """Replays of both in lanes of their own, over and over; none reads the other's numbers."""
    pool = GraphPool(recorder)
    slots = [recorded(recorder, module=Affine(weight), pool=pool) for weight in (2.0, 3.0)]
    lanes = [recorder.inference, recorder.lane()]
    found = []
    recorder.wait(recorder.current().mark())
    for turn in range(50):
        for slot, lane in zip(slots, lanes, strict=True):
            with lane.entered():
                found.append(slot.forward([rows(recorder, 8, turn)])[0])
    for lane in lanes:
        recorder.wait(lane.mark())
    for index, y in enumerate(found):
        x = np.full((8, 4), index // 2, np.float32)
        np.testing.assert_allclose(y.cpu(), expected(2.0 + index % 2, x), rtol=1e-4)
    assert pool.counts().recorded == 12


def test_memory_goes_with_its_last_recording(recorder):
    pool = GraphPool(recorder)
    for _ in range(3):
        engine = recorded(recorder, pool=pool)
        assert engine.forward([rows(recorder, 1)])[0].shape == (1, 3)
        del engine
    assert pool.counts().recorded == 18


# The order of loads and batches, where it shows: on the device that is late.


def instance_on(fake: FakeDevice, weight: float) -> Instance:
    module = Affine(weight)
    made = Instance(
        module,
        program=None,
        signature=SIGNATURE,
        device=fake.torch_device,
        engine=Reported(module, fake),
        staging=PinnedStaging(Staging(), fake, count=2, size=16),
        handover=Handover(fake),
    )
    made.materialize()
    return made


def answer(instance: Instance) -> float:
    with torch.inference_mode():
        return float(instance.run([torch.ones(1, 4)])[0][0, 0])


def write(instance: Instance, weight: float) -> None:
    instance._staging.copy(torch.full((3, 4), weight), instance.tensors["weight"])


def test_a_batch_follows_the_bytes_of_its_version():
    fake = FakeDevice()
    instance, staging = instance_on(fake, 1.0), fake.lane()
    with staging.entered():
        write(instance, 2.0)
        instance.handover.after_fill()
    with fake.inference.entered():
        instance.handover.before_use()
        assert answer(instance) == 8.0
        asked = len(fake.log)
        # The first batch did it for all.
        instance.handover.before_use()
        assert len(fake.log) == asked
        instance.handover.after_use()


def test_without_the_mark_a_batch_would_race():
    fake = FakeDevice()
    instance, staging = instance_on(fake, 1.0), fake.lane()
    with staging.entered():
        write(instance, 2.0)
    with fake.inference.entered(), pytest.raises(ModelFailure, match="Race"):
        answer(instance)


def test_a_refill_follows_the_last_batch_also_one_that_failed_half_way():
    fake = FakeDevice()
    instance, staging = instance_on(fake, 1.0), fake.lane()
    with fake.inference.entered():
        answer(instance)
        instance.handover.after_use()
    with staging.entered():
        instance.handover.before_fill()
        write(instance, 2.0)
    # The host waited for nothing in between but for chunks.
    assert ("follow", staging.number, fake.inference.number) in fake.log


def test_without_the_mark_a_refill_would_race():
    fake = FakeDevice()
    instance, staging = instance_on(fake, 1.0), fake.lane()
    with fake.inference.entered():
        answer(instance)
    with staging.entered(), pytest.raises(Race):
        write(instance, 2.0)


def test_without_turns_replays_of_two_lanes_would_race():
    fake = FakeDevice()
    pool = GraphPool(fake)
    with torch.inference_mode():
        engine = recorded(fake, pool=pool)
        with fake.inference.entered():
            engine.forward([rows(fake, 1)])
        with fake.lane().entered(), pytest.raises(Race):
            engine._recorded[((4,),)][0].recording.replay()


@pytest.fixture
def checked(monkeypatch) -> FakeDevice:
    """The device of replicas, which are seen whenever they touch a slot."""
    fake = FakeDevice()
    run = Instance.run

    def reported(instance, inputs):
        fake.touch(list(instance.tensors.values()))
        return run(instance, inputs)

    monkeypatch.setattr(Instance, "run", reported)
    monkeypatch.setattr("inference_service.replica.open_device", lambda _name: fake)
    return fake


async def answers_beside_loads(line, store_url: str, **settings: object) -> None:
    """Loads beside batches that never stop; every answer is the version's that it names."""
    line.publish(1.0)
    cuda_graphs, slots = settings["cuda_graphs"], settings["slots"]
    async with ServedReplica(store_url, max_stall_ms=10_000.0, **settings) as replica:
        await replica.wait_ready()
        done = False

        async def ask(count: int) -> None:
            x = np.ones((count, 4), np.float32)
            while not done:
                version, y = await replica.infer(x)
                np.testing.assert_array_equal(y, expected(float(version), x))

        async with asyncio.TaskGroup() as load:
            for count in (1, 3, 8):
                load.create_task(ask(count))
            for weight in range(2, 22):
                status = await replica.wait_serving(line.publish(float(weight)))
            done = True
        assert not status.failures
        graphs = status.engine.graphs
        if cuda_graphs:
            assert list(graphs.sizes) == [1, 2, 3, 4, 6, 8]
            assert (graphs.recorded, graphs.rerecorded) == (6 * slots, 0)
            assert graphs.replays > 60
            assert graphs.plain == 0
        else:
            assert graphs.recorded == 0
        if slots == 2:
            line.rollback(20)
            await replica.wait_serving(20)


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("cuda_graphs", [False, True])
async def test_a_replica_keeps_the_order(checked, line, store_url, slots, cuda_graphs):
    await answers_beside_loads(line, store_url, slots=slots, cuda_graphs=cuda_graphs)
    fake = checked
    staged = [lane.number for lane in fake.lanes if lane is not fake.inference]
    followed = {entry[1:] for entry in fake.log if entry[0] == "follow"}
    assert any((fake.inference.number, lane) in followed for lane in staged)
    assert any((lane, fake.inference.number) in followed for lane in staged)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("cuda_graphs", [False, True])
async def test_a_replica_on_a_gpu(line, store_url, slots, cuda_graphs):
    await answers_beside_loads(
        line, store_url, slots=slots, cuda_graphs=cuda_graphs, device="cuda:0"
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
async def test_a_model_that_waits_for_the_gpu_is_served_without_graphs(line, store_url):
    x = np.ones((2, 4), np.float32)
    line.publish_moody(1.0)
    async with ServedReplica(store_url, cuda_graphs=True, device="cuda:0") as replica:
        for weight in (2.0, 3.0):
            status = await replica.wait_serving(line.publish_moody(weight))
            np.testing.assert_array_equal((await replica.infer(x))[1], expected(weight, x))
        assert status.engine.graphs.why_not.startswith("not recorded: ")
