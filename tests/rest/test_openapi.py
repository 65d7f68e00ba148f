"""The OpenAPI document is valid and names every route, and only routes."""

import json

from openapi_spec_validator import OpenAPIV31SpecValidator

from chassis.rest.application import DOCUMENT, DOCUMENT_PATH
from chassis.rest.refusals import CODE_STATUS, REASON_STATUS
from chassis.rest.routes import ROUTES
from protos.pool import POOL
from tests.rest.http import ask

SPEC = json.loads(DOCUMENT.read_text())


def test_the_document_is_valid():
    assert [str(error) for error in OpenAPIV31SpecValidator(SPEC).iter_errors()] == []


def test_it_names_every_route_and_no_other():
    named = {(method.upper(), path) for path, item in SPEC["paths"].items() for method in item}
    assert named == {(spec.method, spec.path) for spec in ROUTES} | {("GET", DOCUMENT_PATH)}
    assert len(ROUTES) == len(named) - 1


def test_every_rpc_has_a_path():
    methods = {
        method.name for method in POOL.FindServiceByName("inference.GRPCInferenceService").methods
    }
    assert {spec.rpc for spec in ROUTES} == methods


def test_it_tells_every_status_of_an_error():
    told = SPEC["components"]["responses"]["Error"]["description"]
    for status in {*CODE_STATUS.values(), *REASON_STATUS.values()} - {499}:
        assert f"{status} " in told


async def test_it_is_served(served):
    answer = await ask(served.port, "GET", DOCUMENT_PATH)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json == SPEC
