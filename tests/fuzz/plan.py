"""Which shots a run fires: a pure function of its seed, one by one, so that each comes back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

from tests.fuzz import http_shots
from tests.fuzz.hostile import heavy_shot, hostile_shot
from tests.fuzz.mutations import mutated
from tests.fuzz.shot import Shot
from tests.fuzz.valid import INFER_SHARE, count, infer_requests, other_requests

# A heavy one takes a server a second.
HEAVY_EVERY = 1_000
# Of all; the others are gRPC.
HTTP_SHARE = 0.2
# Never a run's own seed.
WARM_UP_SEED = -1
HEAVY_IN_WARM_UP = 16


SEVERAL_ANSWERS = (count(3).SerializeToString(),)


@cache
def _infer() -> tuple[bytes, ...]:
    return (*infer_requests(), *SEVERAL_ANSWERS)


@cache
def _others() -> tuple[tuple[str, tuple[bytes, ...]], ...]:
    return tuple((method, tuple(messages)) for method, messages in other_requests().items())


def mutation(seed: int, number: int) -> Shot:
    """The `number`th damaged message: a unary call of some RPC, or a stream of a few."""
    label = f"mutation:{seed}:{number}"
    draw = random.Random(label)
    if draw.random() < HTTP_SHARE:
        return http_shots.mutation_shot(draw, label)
    if draw.random() >= INFER_SHARE:
        method, messages = draw.choice(_others())
        return Shot(label, method, (mutated(draw, draw.choice(messages), messages),))
    pool = _infer()
    if draw.random() < 0.1:
        # Each frame waits for the one answer to the frame before it.
        pool = pool[: -len(SEVERAL_ANSWERS)]
        frames = tuple(
            mutated(draw, draw.choice(pool), pool) if draw.random() < 0.7 else draw.choice(pool)
            for _ in range(draw.randint(1, 4))
        )
        return Shot(label, "ModelStreamInfer", frames, streams=True, parses=False)
    return Shot(label, "ModelInfer", (mutated(draw, draw.choice(pool), pool),))


def hostile(seed: int, number: int) -> Shot:
    """The `number`th well-formed request."""
    label = f"hostile:{seed}:{number}"
    draw = random.Random(label)
    if number % HEAVY_EVERY == HEAVY_EVERY // 2:
        return heavy_shot(draw, label)
    if draw.random() < HTTP_SHARE:
        return http_shots.hostile_shot(draw, label)
    return hostile_shot(draw, label)


def shots(seed: int, mutations: int, hostiles: int) -> Iterator[Shot]:
    """All of a run, both kinds mixed evenly."""
    total = mutations + hostiles
    sent = 0
    for index in range(total):
        if sent * total < hostiles * (index + 1) and sent < hostiles:
            yield hostile(seed, sent)
            sent += 1
        else:
            yield mutation(seed, index - sent)


def warm_up(mutations: int, hostiles: int) -> Iterator[Shot]:
    """What brings a server to the size that it keeps: shots of every kind, the heavy ones too."""
    draw = random.Random(WARM_UP_SEED)
    for number in range(HEAVY_IN_WARM_UP):
        yield heavy_shot(draw, f"warm-up:{WARM_UP_SEED}:{number}")
    yield from shots(WARM_UP_SEED, mutations, hostiles)


def shot_of(label: str) -> Shot:
    """The shot that a report names."""
    kind, seed, number = label.split()[0].split(":")
    return (hostile if kind == "hostile" else mutation)(int(seed), int(number))
