"""How often a rollout of an equal version is given up, and how soon one of a worse version.

`python -m benchmarks.rollouts` draws requests for a candidate and three times as many for the
others, lets the policy judge after every 20, without any difference allowed, and prints a table:
once as it is, once with its whole error spent on each look, as a test that is repeated would.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from unittest.mock import patch

from headrace.policy import rollout as policy
from headrace.policy.confidence import Sample
from headrace.policy.evidence import Arm, Evidence
from model_store.rollout import Rollout, RolloutPlan

CANDIDATE = 2
REQUESTS = 20
OTHERS = 60
# Zero allowance, so that each judgement has its full chance of being wrong; never promoted.
PLAN = RolloutPlan(
    shares=(0.25,),
    max_error_difference=0.0,
    max_latency_ratio=1.0,
    metric="accuracy",
    min_requests=10**9,
)


@dataclass(frozen=True, slots=True)
class Version:
    """Failed share of its requests, mean slowness of its batches, share of right answers."""

    failed: float = 0.02
    slowness: float = 1.0
    right: float = 0.9

    def drawn(self, draw: random.Random, requests: int) -> Arm:
        """A tenth as many batches as requests; every second one is scored."""
        failed = sum(draw.random() < self.failed for _ in range(requests))
        times = [self.slowness * draw.lognormvariate(0, 0.5) for _ in range(requests // 10)]
        scores = [float(draw.random() < self.right) for _ in range(requests // 2)]
        return Arm(0, requests, failed, _sample(times), Sample(), {"accuracy": _sample(scores)})


EQUAL = (Version(), Version(failed=0.2, right=0.97))
WORSE = {
    "10 % fail instead of 2 %": Version(failed=0.1),
    "half as long again": Version(slowness=1.5),
    "80 % right instead of 90 %": Version(right=0.8),
}


def given_up_after(draw: random.Random, ours: Version, others: Version, looks: int) -> int | None:
    """Requests of the candidate until it is given up; None where it is not."""
    candidate, control = Arm(CANDIDATE), Arm()
    for look in range(1, looks + 1):
        candidate += ours.drawn(draw, REQUESTS)
        control += others.drawn(draw, OTHERS)
        evidence = Evidence(
            gateways=1, endpoints=1, ready_endpoints=1, candidate=candidate, control=control
        )
        verdict = policy.decide(
            Rollout(against="stable", plan=PLAN),
            evidence,
            policy.Base(1, held=False),
            elapsed_s=0.0,
            ready_s=0.0,
        )
        if isinstance(verdict, policy.Abort):
            return look * REQUESTS
    return None


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollouts", description=__doc__)
    parser.add_argument("--rollouts", type=int, default=200, help="of equal versions")
    parser.add_argument("--looks", type=int, default=40, help="at each of them")
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    print("| | error shared over the looks | whole error at each look |")
    print("|---|---|---|")
    for words, measure in _rows(options.rollouts, options.looks, options.seed):
        shared = measure()
        with patch.object(policy, "spent", lambda alpha, _looks: alpha):
            whole = measure()
        print(f"| {words} | {shared} | {whole} |", flush=True)


def _rows(rollouts: int, looks: int, seed: int) -> list[tuple[str, Callable[[], str]]]:
    def equal() -> str:
        draw = random.Random(seed)
        pairs = (EQUAL[at % 2] for at in range(rollouts))
        ended = [given_up_after(draw, one, one, looks) for one in pairs]
        return f"{sum(after is not None for after in ended)}"

    def worse(version: Version) -> str:
        draw = random.Random(seed)
        # None in ten times the looks: told as that many.
        most = 10 * looks
        ended = [given_up_after(draw, version, Version(), most) for _ in range(21)]
        return f"{median(after or most * REQUESTS for after in ended):.0f}"

    words = f"equal versions, {looks} looks: given up of {rollouts}"
    return [(words, equal)] + [
        (f"{name}: requests until given up, median", lambda version=version: worse(version))
        for name, version in WORSE.items()
    ]


def _sample(values: list[float]) -> Sample:
    return Sample(len(values), sum(values), sum(value * value for value in values))


if __name__ == "__main__":
    main()
