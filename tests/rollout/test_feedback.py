"""Scores that clients report, at a server that takes them."""

from __future__ import annotations

import pytest

from chassis.errors import InvalidArgument, Unimplemented
from headrace import AsyncClient, Client, Prediction
from tests.rollout.gateway import FakeGateway
from tests.sdk.oip_server import OipServer


def told(gateway):
    return [
        (report.model, score.version, score.metric, score.value)
        for report in gateway.reports
        for score in report.scores
    ]


def test_an_answer_is_scored_by_the_version_that_gave_it():
    with FakeGateway() as gateway, Client(gateway.address) as client:
        answer = Prediction("clicks", 7, {})
        assert client.report(answer, {"accuracy": 1, "auc": 0.5}) == 2
        assert client.report(("clicks", 8), {"accuracy": 0.0}) == 1
        assert client.report_many("clicks", [(7, {"auc": 1.0}), (8, {"auc": 0.0})]) == 2
    assert told(gateway) == [
        ("clicks", 7, "accuracy", 1.0),
        ("clicks", 7, "auc", 0.5),
        ("clicks", 8, "accuracy", 0.0),
        ("clicks", 7, "auc", 1.0),
        ("clicks", 8, "auc", 0.0),
    ]


async def test_the_asyncio_client_reports_too():
    with FakeGateway() as gateway:
        async with AsyncClient(gateway.address) as client:
            assert await client.report(Prediction("clicks", 7, {}), {"accuracy": 1.0}) == 1
            assert await client.report_many("clicks", [(8, {"accuracy": 0.0})]) == 1
    assert len(told(gateway)) == 2


def test_what_is_no_score_is_refused_before_it_is_sent():
    with FakeGateway() as gateway, Client(gateway.address) as client:
        for answered, scores in (
            (("clicks", 7), {"accuracy": float("nan")}),
            (("clicks", 0), {"accuracy": 1.0}),
            (("clicks", True), {"accuracy": 1.0}),
            (("clicks", 7), {"a b": 1.0}),
            (("no such/model", 7), {"accuracy": 1.0}),
        ):
            with pytest.raises(InvalidArgument):
                client.report(answered, scores)
    assert not gateway.reports


def test_a_server_without_it_says_so():
    with OipServer() as server, Client(server.address) as client, pytest.raises(Unimplemented):
        client.report(("clicks", 7), {"accuracy": 1.0})
