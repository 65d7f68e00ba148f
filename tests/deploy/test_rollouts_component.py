"""components/rollouts: one controller that reaches every gateway, and nobody else who does."""

import yaml
from typer.testing import CliRunner

from headrace.cli.main import app
from headrace.rollout.gateways import Gateways
from tests.deploy.manifests import (
    of_kind,
    pod,
    pod_labels,
    selects,
    settings_text,
    workload,
)

ROOT = "overlays/gpu"


def container():
    [found] = pod(workload(ROOT, "rollouts"))["containers"]
    return found


def test_one_controller_at_a_time():
    spec = workload(ROOT, "rollouts")["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")


def test_it_moves_the_channels_that_replicas_follow():
    [store] = [item["value"] for item in container()["env"] if item["name"] == "HEADRACE_STORE"]
    assert store == yaml.safe_load(settings_text(ROOT, "replica"))["replica"]["store"]


def test_the_command_line_takes_its_arguments(tmp_path):
    name, *command = container()["command"]
    # A model that is not there ends the command after its arguments were taken.
    arguments = [*container()["args"], "nosuchmodel", "--store", f"file://{tmp_path}/store"]
    result = CliRunner().invoke(app, [*command, *arguments])
    assert (name, result.exception.reason) == ("headrace", "MODEL_NOT_FOUND")


def test_its_gateways_are_every_ready_pod_of_the_gateway():
    arguments = container()["args"]
    named = arguments[arguments.index("--gateway") + 1]
    Gateways([named]).close()
    [service] = [
        one for one in of_kind(ROOT, "Service") if one["metadata"]["name"] == named.split(":")[1]
    ]
    assert service["spec"]["clusterIP"] == "None"
    assert selects(service["spec"]["selector"], pod_labels(workload(ROOT, "gateway")))
    assert [port["port"] for port in service["spec"]["ports"]] == [int(named.split(":")[2])]


def test_administration_is_for_the_controller_alone():
    [policy] = [
        one
        for one in of_kind(ROOT, "NetworkPolicy")
        if one["metadata"]["name"] == "headrace-gateway"
    ]
    [rule] = [
        rule
        for rule in policy["spec"]["ingress"]
        if 8003 in [port["port"] for port in rule["ports"]]
    ]
    [peer] = rule["from"]
    labels = pod_labels(workload(ROOT, "rollouts"))
    assert list(peer) == ["podSelector"] and selects(peer["podSelector"]["matchLabels"], labels)
    others = [workload(ROOT, name) for name in ("gateway", "replica", "trainer", "store")]
    assert not any(
        selects(peer["podSelector"]["matchLabels"], pod_labels(other)) for other in others
    )
    [store] = [
        one for one in of_kind(ROOT, "NetworkPolicy") if one["metadata"]["name"] == "headrace-store"
    ]
    allowed = store["spec"]["ingress"][0]["from"][0]["podSelector"]["matchExpressions"][1]["values"]
    assert labels["app.kubernetes.io/component"] in allowed
