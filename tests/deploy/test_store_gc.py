"""components/store-gc: a job that collects the replicas' store, locked down like all others."""

import pytest
import yaml
from typer.testing import CliRunner

from headrace.cli.main import app
from tests.deploy.manifests import OVERLAYS, of_kind, pod, settings_text, workload

every_overlay = pytest.mark.parametrize("root", OVERLAYS)


def job(root):
    """The CronJob's spec and its pod."""
    [found] = of_kind(root, "CronJob")
    return found["spec"], found["spec"]["jobTemplate"]["spec"]["template"]["spec"]


@every_overlay
def test_one_job_at_a_time(root):
    spec, _ = job(root)
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] > 0


@every_overlay
def test_it_collects_the_store_that_replicas_read(root):
    [container] = job(root)[1]["containers"]
    [store] = [item["value"] for item in container["env"] if item["name"] == "HEADRACE_STORE"]
    assert store == yaml.safe_load(settings_text(root, "replica"))["replica"]["store"]


@every_overlay
def test_its_image_is_the_replicas(root):
    [container] = job(root)[1]["containers"]
    [replica] = pod(workload(root, "replica"))["containers"]
    assert container["image"] == replica["image"]


@every_overlay
def test_the_command_line_takes_its_arguments(root, tmp_path, monkeypatch):
    [container] = job(root)[1]["containers"]
    monkeypatch.setenv("HEADRACE_STORE", f"file://{tmp_path}/store")
    name, *command = container["command"]
    result = CliRunner().invoke(app, [*command, *container["args"]], catch_exceptions=False)
    assert (name, result.exit_code) == ("headrace", 0), result.output


@every_overlay
def test_it_is_locked_down_and_bounded(root):
    spec = job(root)[1]
    [container] = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for bound in ("requests", "limits"):
        assert {"cpu", "memory"} <= container["resources"][bound].keys()


def test_the_store_lets_it_in():
    [policy] = [
        one
        for one in of_kind("overlays/gpu", "NetworkPolicy")
        if one["metadata"]["name"] == "headrace-store"
    ]
    [rule] = policy["spec"]["ingress"]
    allowed = rule["from"][0]["podSelector"]["matchExpressions"][1]["values"]
    [cron] = of_kind("overlays/gpu", "CronJob")
    labels = cron["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/component"] in allowed
