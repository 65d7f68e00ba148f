"""What holds for every overlay: valid for the API, locked down, probed, bounded, wired together."""

import re

import kubernetes_validate
import pytest
import yaml

from tests.deploy.manifests import (
    OVERLAYS,
    ROOTS,
    WORKLOADS,
    container_ports,
    containers,
    of_kind,
    pod,
    pod_labels,
    render,
    selects,
    settings_text,
    workload,
)

COMPONENTS = ("gateway", "replica", "trainer")
every_root = pytest.mark.parametrize("root", ROOTS)
every_overlay = pytest.mark.parametrize("root", OVERLAYS)


@every_root
def test_documents_are_valid_for_the_api(root):
    for document in render(root):
        kubernetes_validate.validate(document, "1.34", strict=True)


def test_validation_refuses_a_misspelt_field():
    document = yaml.safe_load(yaml.safe_dump(workload("base", "gateway")))
    pod(document)["terminationGracePeriodSecs"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, "1.34", strict=True)


@every_root
def test_the_three_services_are_there(root):
    names = {document["metadata"]["name"] for document in of_kind(root, *WORKLOADS)}
    assert {f"headrace-{component}" for component in COMPONENTS} <= names


@every_root
def test_every_container_is_locked_down(root):
    for name, spec, container in containers(root):
        security = container["securityContext"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["readOnlyRootFilesystem"] is True, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert spec["automountServiceAccountToken"] is False, name


@every_root
def test_every_container_is_bounded_and_probed(root):
    for name, _, container in containers(root):
        for bound in ("requests", "limits"):
            assert {"cpu", "memory"} <= container["resources"][bound].keys(), name
        # What listens nowhere has nothing to probe.
        if "ports" in container:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), name
        assert re.search(r":\d[\w.-]*$", container["image"]), f"{name}: an image without a tag"


@every_root
def test_services_probes_and_names_agree_on_ports(root):
    for document in of_kind(root, *WORKLOADS):
        ports = container_ports(document)
        [container] = pod(document)["containers"]
        if not ports:
            continue
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            port = container[probe].get("grpc", {}).get("port")
            assert port in (None, ports.get("grpc"))
        services = [
            service
            for service in of_kind(root, "Service")
            if selects(service["spec"]["selector"], pod_labels(document))
        ]
        assert services, document["metadata"]["name"]
        for port in (port for service in services for port in service["spec"]["ports"]):
            assert ports[port["targetPort"]] == port["port"]


@pytest.mark.parametrize("component", COMPONENTS)
def test_readiness_asks_the_server_and_liveness_only_the_loop(component):
    [container] = pod(workload("base", component))["containers"]
    assert container["readinessProbe"]["grpc"].get("service", "") == ""
    assert container["livenessProbe"]["grpc"]["service"] == "liveness"


@every_root
def test_service_links_stay_out_of_the_environment(root):
    # They would be HEADRACE_GATEWAY_PORT=tcp://..., which is the name of a setting.
    assert all(spec["enableServiceLinks"] is False for _, spec, _ in containers(root))


@every_root
def test_each_workload_keeps_a_disruption_budget(root):
    budgets = of_kind(root, "PodDisruptionBudget")
    for document in of_kind(root, *WORKLOADS):
        matching = [
            budget
            for budget in budgets
            if selects(budget["spec"]["selector"]["matchLabels"], pod_labels(document))
        ]
        assert len(matching) == 1, document["metadata"]["name"]


@every_root
def test_replicas_have_a_headless_service(root):
    headless = [s for s in of_kind(root, "Service") if s["spec"].get("clusterIP") == "None"]
    names = {service["metadata"]["name"] for service in headless}
    assert names - {"headrace-gateway-admin"} == {"headrace-replicas"}


@every_overlay
def test_stores_and_registries_named_in_settings_exist(root):
    services = {
        (service["metadata"]["name"], str(port["port"]))
        for service in of_kind(root, "Service")
        for port in service["spec"]["ports"]
    }
    named = {
        found
        for component in COMPONENTS
        for found in re.findall(r"redis://([\w.-]+):(\d+)", settings_text(root, component))
    }
    assert named
    assert named <= services


def test_only_the_gpu_overlay_asks_for_gpus():
    asked = {}
    for root in ROOTS:
        for name, _, container in containers(root):
            gpus = container["resources"]["limits"].get("nvidia.com/gpu")
            if gpus is not None:
                asked[root, name] = gpus
                variables = {item["name"]: item.get("value") for item in container["env"]}
                assert variables["HEADRACE_REPLICA_DEVICE"] == "cuda:0"
    assert asked == {("overlays/gpu", "headrace-replica"): 1}


def test_network_policies_cover_every_workload_and_name_its_ports():
    policies = of_kind("overlays/gpu", "NetworkPolicy")
    for document in of_kind("overlays/gpu", *WORKLOADS):
        [policy] = [
            policy
            for policy in policies
            if selects(policy["spec"]["podSelector"]["matchLabels"], pod_labels(document))
        ]
        opened = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert opened == set(container_ports(document).values())
