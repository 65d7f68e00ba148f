"""headrace.v1.Feedback: what labels that came back say of answers, for the rollout they concern."""

from __future__ import annotations

from chassis.call import Call
from chassis.errors import InvalidArgument
from chassis.names import checked_name
from gateway.arms import Arms
from gateway.catalog import Catalog
from protos.headrace.v1 import gateway_pb2 as admin

SERVICE = "headrace.v1.Feedback"
MOST_SCORES = 10_000
MOST_SCORE = 1e6


class FeedbackServicer:
    """Implements headrace.v1.Feedback."""

    def __init__(self, catalog: Catalog, arms: Arms) -> None:
        self._catalog = catalog
        self._arms = arms

    async def Report(  # noqa: N802
        self, request: admin.ReportRequest, _call: Call
    ) -> admin.ReportResponse:
        """Takes in all scores or, where one is refused, none.

        Raises NotFound (MODEL_NOT_FOUND), InvalidArgument (BAD_SCORE, BAD_NAME, TOO_MANY_SCORES),
        ResourceExhausted (TOO_MANY_METRICS).
        """
        self._catalog.model(request.model)
        _check(request)
        figures = self._arms.of(request.model)
        if figures is None:
            return admin.ReportResponse()
        concerned = [(figures.arm_of(score.version), score) for score in request.scores]
        taken = [(arm, score) for arm, score in concerned if arm is not None]
        figures.check_metrics({score.metric for _, score in taken})
        for arm, score in taken:
            arm.score(score.metric, score.value)
        return admin.ReportResponse(taken=len(taken))


def _check(request: admin.ReportRequest) -> None:
    if len(request.scores) > MOST_SCORES:
        raise InvalidArgument(
            "TOO_MANY_SCORES",
            f"{len(request.scores)} scores in one call; {MOST_SCORES} may be",
            field="scores",
        )
    for at, score in enumerate(request.scores):
        checked_name(score.metric, what="metric")
        # Squares of more would drown what tells two versions apart.
        if not abs(score.value) <= MOST_SCORE:
            raise InvalidArgument(
                "BAD_SCORE",
                f"score {at} is {score.value}: expected a number from -1e6 to 1e6",
                field=f"scores[{at}]",
            )
