"""Rendered manifests as the tests look at them: documents by kind and name."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
ROOTS = ["base", *sorted(f"overlays/{path.name}" for path in (DEPLOY / "overlays").iterdir())]
OVERLAYS = ROOTS[1:]
WORKLOADS = ("Deployment", "StatefulSet")

Document = dict[str, Any]


def kubectl() -> str:
    beside_python = Path(sys.executable).with_name("kubectl")
    found = str(beside_python) if beside_python.exists() else shutil.which("kubectl")
    assert found, "no kubectl: run `make kubectl`"
    return found


@cache
def render(root: str) -> tuple[Document, ...]:
    """Every document that `kubectl kustomize deploy/ROOT` prints."""
    done = subprocess.run(
        [kubectl(), "kustomize", str(DEPLOY / root)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    # Deprecated fields show up here first.
    assert done.stderr == ""
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(root: str, *kinds: str) -> list[Document]:
    return [document for document in render(root) if document["kind"] in kinds]


def workload(root: str, component: str) -> Document:
    [found] = [
        document
        for document in of_kind(root, *WORKLOADS)
        if document["metadata"]["name"] == f"headrace-{component}"
    ]
    return found


def pod(document: Document) -> Document:
    return document["spec"]["template"]["spec"]


def pod_labels(document: Document) -> dict[str, str]:
    return document["spec"]["template"]["metadata"]["labels"]


def containers(root: str) -> Iterator[tuple[str, Document, Document]]:
    """Workload name, pod and container of every container, init containers included."""
    for document in of_kind(root, *WORKLOADS):
        for container in pod(document)["containers"] + pod(document).get("initContainers", []):
            yield document["metadata"]["name"], pod(document), container


def container_ports(document: Document) -> dict[str, int]:
    [container] = pod(document)["containers"]
    return {port["name"]: port["containerPort"] for port in container.get("ports", [])}


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def settings_text(root: str, component: str) -> str:
    """The settings file that the component's pod mounts."""
    [volume] = [
        volume
        for volume in pod(workload(root, component))["volumes"]
        if volume["name"] == "settings"
    ]
    [found] = [
        document
        for document in of_kind(root, "ConfigMap")
        if document["metadata"]["name"] == volume["configMap"]["name"]
    ]
    [text] = found["data"].values()
    return text
