"""Evidence from bare numbers, for tests of the policy."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.policy.confidence import Sample
from headrace.policy.evidence import Arm, Evidence, Shadow

CANDIDATE = 5


def sample(values: Sequence[float]) -> Sample:
    return Sample(len(values), sum(values), sum(value * value for value in values))


def even(count: int, mean: float, spread: float = 0.0) -> Sample:
    """`count` numbers around `mean`, half of them `spread` above and half below."""
    return sample([mean + (spread if at % 2 else -spread) for at in range(count)])


def arm(
    requests: int = 0, failed: int = 0, slowness: Sample | None = None, **scores: Sample
) -> Arm:
    return Arm(0, requests, failed, slowness or Sample(), Sample(), scores)


def seen(
    candidate: Arm | None = None,
    control: Arm | None = None,
    shadow: Shadow | None = None,
    *,
    endpoints: int = 2,
    ready: int = 2,
    silent: tuple[str, ...] = (),
    behind: tuple[str, ...] = (),
) -> Evidence:
    ours = Arm(CANDIDATE) + (candidate or Arm())
    return Evidence(
        gateways=1 + len(silent) + len(behind),
        silent=silent,
        behind=behind,
        endpoints=endpoints,
        ready_endpoints=ready,
        candidate=ours,
        control=control or Arm(4, 10_000, 0),
        shadow=shadow or Shadow(),
    )
