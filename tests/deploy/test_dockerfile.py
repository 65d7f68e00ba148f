"""The images: three targets, non-root, a pinned base, and no torch behind the gateway's."""

import re
import tomllib
from dataclasses import dataclass, field

import pytest

from tests.deploy.manifests import DEPLOY, REPOSITORY, container_ports, workload

TARGETS = {"gateway": "gateway", "replica": "inference_service", "trainer": "trainer_service"}


@dataclass
class Stage:
    """One FROM: its parent, the stages it copies from, and its instructions."""

    parent: str
    lines: list[str] = field(default_factory=list)

    @property
    def needs(self) -> set[str]:
        return {self.parent, *re.findall(r"--from=(\S+)", "\n".join(self.lines))}

    def last(self, instruction: str) -> str | None:
        found = [line for line in self.lines if line.startswith(f"{instruction} ")]
        return found[-1].removeprefix(f"{instruction} ") if found else None


def stages() -> dict[str, Stage]:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    found: dict[str, Stage] = {}
    current = None
    for line in text.splitlines():
        if named := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            current = found[named[2]] = Stage(named[1])
        elif current and line and not line.startswith("#"):
            current.lines.append(line)
    return found


def closure(target: str) -> dict[str, Stage]:
    """The target and every stage whose files end up in it."""
    every = stages()
    names, seen = [target], {}
    while names:
        name = names.pop()
        if name in every and name not in seen:
            seen[name] = every[name]
            names.extend(every[name].needs)
    return seen


def inherited(target: str, instruction: str) -> str | None:
    every = stages()
    while target in every:
        if found := every[target].last(instruction):
            return found
        target = every[target].parent
    return None


def installs_torch(target: str) -> bool:
    return any(
        "torch" in line
        for stage in closure(target).values()
        for line in stage.lines
        if line.startswith("RUN ")
    )


def test_only_the_gateways_image_has_no_torch():
    assert {target: installs_torch(target) for target in TARGETS} == {
        "gateway": False,
        "replica": True,
        "trainer": True,
    }


def test_what_the_gateways_image_installs_does_not_require_torch():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert not [name for name in project["dependencies"] if name.startswith(("torch", "safet"))]
    assert [name for name in project["optional-dependencies"]["torch"] if name.startswith("torch")]


def test_the_base_is_pinned_to_a_python_release():
    text = (DEPLOY / "Dockerfile").read_text()
    assert "ARG PYTHON_IMAGE=python:3.11-slim\n" in text
    outside = {stage.parent for stage in stages().values()} - stages().keys()
    assert outside == {"${PYTHON_IMAGE}"}


@pytest.mark.parametrize(("target", "package"), TARGETS.items())
def test_an_image_runs_its_service_without_root(target, package):
    assert inherited(target, "USER") == "65532:65532"
    assert inherited(target, "ENTRYPOINT") == f'["python", "-m", "{package}"]'


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_exposes_the_ports_of_its_container(target):
    exposed = [int(port) for port in (inherited(target, "EXPOSE") or "").split()]
    assert exposed == sorted(container_ports(workload("base", target)).values())


def test_the_build_context_holds_every_package_that_is_installed():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packages = {
        pattern.rstrip("*")
        for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    allowed = {line.strip("!/") for line in ignored if line.startswith("!")}
    assert packages - allowed == {"benchmarks"}
    assert {"pyproject.toml", "README.md", "LICENSE"} <= allowed
