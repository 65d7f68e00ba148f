"""The settings that pods mount are settings that the services accept, and they fit the pods."""

import subprocess
import sys

import pytest

from chassis.connections import is_loopback
from chassis.errors import InvalidArgument
from chassis.settings import ProcessSettings
from gateway.settings import GatewaySettings
from inference_service.settings import ReplicaSettings
from tests.deploy.manifests import (
    REPOSITORY,
    ROOTS,
    container_ports,
    pod,
    settings_text,
    workload,
)
from trainer_service.settings import TrainerSettings

SERVICES = {"gateway": GatewaySettings, "replica": ReplicaSettings, "trainer": TrainerSettings}
# What the downward API fills in.
FIELDS = {"status.podIP": "10.1.2.3", "metadata.name": "pod-7"}
every_pod = pytest.mark.parametrize(
    ("root", "component"), [(root, component) for root in ROOTS for component in SERVICES]
)


def variables(root: str, component: str) -> dict[str, str]:
    """The container's environment as the kubelet would set it."""
    [container] = pod(workload(root, component))["containers"]
    found: dict[str, str] = {}
    for item in container["env"]:
        source = item.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        value = FIELDS[source] if source else item["value"]
        for name, known in found.items():
            value = value.replace(f"$({name})", known)
        found[item["name"]] = value
    return found


@pytest.fixture
def loaded(root, component, tmp_path, monkeypatch):
    """The pod's settings, read the way the process reads them."""
    file = tmp_path / "headrace.yaml"
    file.write_text(settings_text(root, component))
    for name, value in variables(root, component).items():
        monkeypatch.setenv(name, value)
    assert ProcessSettings.load(file).log_format == "json"
    return SERVICES[component].load(file)


@every_pod
def test_services_accept_their_settings(root, component, loaded):
    assert loaded.section == component
    assert loaded.host == "0.0.0.0"


@every_pod
def test_ports_are_the_containers(root, component, loaded):
    ports = container_ports(workload(root, component))
    expected = {"grpc": loaded.port, "metrics": loaded.metrics_port}
    # What is off, or does not exist, has no port.
    http_port = getattr(loaded, "http_port", -1)
    if http_port >= 0:
        expected["http"] = http_port
    if not is_loopback(getattr(loaded, "admin_host", "127.0.0.1")):
        expected["admin"] = loaded.admin_port
    assert ports == expected


@every_pod
def test_a_drain_ends_before_the_pod_is_killed(root, component, loaded):
    spec = pod(workload(root, component))
    [container] = spec["containers"]
    pause = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [0])
    assert int(pause[-1]) + loaded.drain_s < spec["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("component", ["replica"])
def test_a_replica_registers_the_address_of_its_pod(root, component, loaded):
    assert loaded.advertise == f"10.1.2.3:{loaded.port}"
    assert loaded.name == "pod-7"
    assert loaded.registry == loaded.store
    assert len(loaded.followed()) == 1


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("component", ["replica", "trainer"])
def test_torch_has_no_more_threads_than_processors(root, component, loaded):
    [container] = pod(workload(root, component))["containers"]
    assert 0 < loaded.threads <= int(container["resources"]["limits"]["cpu"])


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("component", ["trainer"])
def test_a_trainer_keeps_its_runs_on_the_claim(root, component, loaded):
    document = workload(root, component)
    [container] = pod(document)["containers"]
    claims = {claim["metadata"]["name"] for claim in document["spec"]["volumeClaimTemplates"]}
    mounted = {m["mountPath"] for m in container["volumeMounts"] if m["name"] in claims}
    assert str(loaded.state_dir) in mounted


def test_a_setting_nobody_knows_stops_the_pod(tmp_path):
    file = tmp_path / "headrace.yaml"
    file.write_text(settings_text("base", "gateway").replace("admin_port", "admin_prot"))
    with pytest.raises(InvalidArgument, match=r"gateway\.admin_prot.*gateway\.admin_port"):
        GatewaySettings.load(file)


def test_the_gateways_image_needs_no_torch():
    """Imports all that a start and `headrace status` need, with torch made unimportable."""
    blocked = "import sys; sys.modules.update(dict.fromkeys(['torch', 'safetensors', 'sklearn']))"
    done = subprocess.run(
        [sys.executable, "-c", f"{blocked}; import gateway.__main__, headrace.cli.main"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
