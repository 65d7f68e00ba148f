"""Scores of answers, once their labels are known: what a client reports of them.

Decides what a score is before anything is sent; what becomes of it is the gateway's affair.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from chassis.errors import InvalidArgument
from chassis.names import checked_name
from headrace.prediction import Prediction
from protos.headrace.v1 import gateway_pb2

SERVICE = "headrace.v1.Feedback"

# What was answered: the prediction itself, or its model and version where only those were kept.
Answered = Prediction | tuple[str, int]
Scores = Mapping[str, float]


def report_of(answered: Answered, scores: Scores) -> gateway_pb2.ReportRequest:
    """The message for one answer. Raises InvalidArgument (BAD_SCORE, BAD_NAME)."""
    if isinstance(answered, Prediction):
        return reports_of(answered.model, [(answered.version, scores)])
    model, version = answered
    return reports_of(model, [(version, scores)])


def reports_of(model: str, scored: Iterable[tuple[int, Scores]]) -> gateway_pb2.ReportRequest:
    """The message for many answers of a model, by version. Raises as `report_of`."""
    request = gateway_pb2.ReportRequest(model=checked_name(model, what="model"))
    for version, scores in scored:
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise InvalidArgument(
                "BAD_SCORE", f"{version!r} is no version: expected the prediction's, 1 or more"
            )
        for metric, value in scores.items():
            number = float(value)
            if not math.isfinite(number):
                raise InvalidArgument("BAD_SCORE", f"score {metric!r} is {number}: expected finite")
            request.scores.add(
                version=version, metric=checked_name(metric, what="metric"), value=number
            )
    return request
