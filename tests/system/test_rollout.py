"""Rollouts on the real stack: candidates that are promoted and given up, under load.

Callers ask without pause and recompute every answer from the weights of the version it names, so
that whatever a rollout does, no request may fail and no answer be another version's.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading

import numpy as np
import pytest

from headrace import Client, Publisher
from model_store import open_store
from model_store.publication import existing_channel
from model_store.rollout import RolloutState
from tests.system.integers import Integers, computed, filled, rows
from tests.system.stack import Stack, wait_until

pytestmark = pytest.mark.system

CALLERS = 4
# A rollout that nothing decides ends, so that a test says what was missing.
GIVE_UP_S = 60


class Line:
    """The model's versions, with their weights by number."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.store = open_store(url)
        self.weights: dict[int, dict[str, np.ndarray]] = {}

    def publish(self, channel: str) -> int:
        module = Integers().build()
        weights = filled(module, seed=len(self.weights))
        # Unfenced: two publishers take turns.
        with Publisher(self.url, model=Integers(), channel=channel, epoch=0) as publisher:
            version = publisher.publish(module)
        self.weights[version] = weights
        return version

    def channel(self, name: str):
        return existing_channel(self.store, "integers", name)


class Callers:
    """Ask until they are told to stop; `score` says how good an answer of a version is."""

    def __init__(self, address: str, line: Line, score=None) -> None:
        self._address, self._line, self._score = address, line, score
        self._done = threading.Event()
        self.versions: list[int] = []
        self.wrong: list[object] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(seed,)) for seed in range(CALLERS)
        ]

    def _ask(self, seed: int) -> None:
        with Client(self._address) as client:
            for number in itertools.count():
                if self._done.is_set():
                    return
                x = rows(1 + number % 3, seed=seed * 100_000 + number)
                try:
                    answer = client.predict("integers", {"x": x})
                    if not np.array_equal(
                        answer["y"], computed(self._line.weights[answer.version], x)
                    ):
                        self.wrong.append(answer.version)
                    self.versions.append(answer.version)
                    if self._score is not None:
                        client.report(answer, {"accuracy": self._score(answer.version)})
                except Exception as error:
                    self.wrong.append(error)

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


# Starting real processes takes most of the time: the tests share them, in any order.
@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """Version 1 is stable."""
    line = Line(f"file://{tmp_path_factory.mktemp('store')}/store")
    line.publish("stable")
    yield line
    line.store.close()


@pytest.fixture(scope="module")
def stack(line, tmp_path_factory):
    stack = Stack(tmp_path_factory.mktemp("stack"), line.url, "integers").start()
    with Client(stack.gateway.address) as client:
        wait_until(lambda: client.ready("integers"), within_s=60, what="the model is ready")
    yield stack
    assert stack.stop() == [0, 0, 0]


@pytest.fixture
def serving(stack, line):
    """The version that answers everywhere before a test begins."""
    stable = line.channel("stable")
    if stable.held:
        stable = line.store.move_channel(
            "integers",
            "stable",
            stable.version,
            expected_revision=stable.revision,
            reason="released",
        )
    return stable.version


def start_command(stack: Stack, line: Line, *options: str) -> list[str]:
    admin = f"127.0.0.1:{stack.gateway.serving['admin_port']}"
    return [
        *(sys.executable, "-m", "headrace.cli.main", "rollout", "start", "integers"),
        *("--store", line.url, "--gateway", admin, "--poll-s", "0.1"),
        # How fast batches are on a machine that does other things is not what is tested.
        *("--stage-s", "0.5", "--max-latency-ratio", "0", *options),
    ]


def rolled_out(stack: Stack, line: Line, *options: str) -> subprocess.CompletedProcess:
    """`headrace rollout start` until it ends."""
    bounds = ("--give-up-s", str(GIVE_UP_S), "--min-requests", "30")
    command = start_command(stack, line, *bounds, *options)
    return subprocess.run(command, capture_output=True, text=True, timeout=110)


def wait_for(callers: Callers, version: int) -> None:
    """Until that version answers alone."""
    wait_until(
        lambda: set(callers.versions[-50:]) == {version},
        within_s=60,
        what=f"version {version} answers alone",
    )


def test_a_good_candidate_takes_a_growing_share_and_then_all(stack, line, serving):
    candidate = line.publish("canary")
    with Callers(stack.gateway.address, line) as callers:
        done = rolled_out(stack, line, "--shares", "10,50", "--shadow", "20")
        assert done.returncode == 0, done.stderr
        before = len(callers.versions)
        wait_for(callers, candidate)
    assert callers.wrong == []
    assert (line.channel("stable").version, line.channel("canary").held) == (candidate, False)
    # Both answered while it was tried.
    assert set(callers.versions[:before]) == {serving, candidate}
    assert "stage 2 of 2 (50 %)" in line.channel("canary").history[-1].reason


def test_a_candidate_whose_labels_say_it_is_worse_is_given_up(stack, line, serving):
    line.publish("canary")
    score = lambda version: float(version == serving)  # noqa: E731
    with Callers(stack.gateway.address, line, score) as callers:
        done = rolled_out(
            stack, line, *("--shares", "30", "--metric", "accuracy", "--max-score-drop", "0.1")
        )
    assert done.returncode == 1, done.stderr
    assert callers.wrong == []
    ended = line.channel("canary")
    assert ended.rollout.state is RolloutState.ABORTED
    assert "its accuracy is 0" in ended.history[-1].reason
    assert line.channel("stable").version == serving


def test_without_shares_it_is_loaded_everywhere_before_it_answers_anywhere(stack, line, serving):
    candidate = line.publish("canary")
    with Callers(stack.gateway.address, line) as callers:
        done = rolled_out(stack, line, "--shares", "none")
        assert done.returncode == 0, done.stderr
        wait_for(callers, candidate)
    assert callers.wrong == []
    assert set(callers.versions) == {serving, candidate}
    assert line.channel("canary").history[-1].reason.startswith("ready on 2 endpoints")


def test_a_rollback_of_the_other_channel_ends_it(stack, line, serving):
    line.publish("stable")
    candidate = line.publish("canary")
    with Callers(stack.gateway.address, line) as callers:
        command = start_command(stack, line, "--min-requests", "1000000")
        started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(
            lambda: line.channel("canary").rollout is not None, within_s=60, what="it has begun"
        )
        back = [sys.executable, "-m", "headrace.cli.main", "rollback", "integers"]
        subprocess.run([*back, "--to", str(serving), "--store", line.url], check=True)
        assert started.wait(60) == 1
        wait_for(callers, serving)
    assert callers.wrong == []
    assert (line.channel("stable").version, line.channel("stable").held) == (serving, True)
    ended = line.channel("canary")
    assert (ended.version, ended.rollout.state) == (candidate, RolloutState.ABORTED)
