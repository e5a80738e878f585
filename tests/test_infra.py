"""What operates the platform, held against what will read it: Ray's validator, promtool, Kubernetes' schemas.

hadolint and kubernetes-validate come with the dev extra; promtool and Prometheus are Debian's package `prometheus`.
With PUBLISHED_CRDS set to a folder of the CRDs that KubeRay and the Prometheus operator publish, the manifests are held
against these in full.
"""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from capricious import weights
from capricious.cluster.prepare import PrepareConfig
from capricious.cluster.render import RenderConfig
from capricious.cluster.train import TrainConfig
from capricious.config import parse
from capricious.metrics import METRICS, of_training

ROOT = Path(__file__).resolve().parents[1]
INFRA = ROOT / "infra"
MANIFESTS = sorted((INFRA / "kuberay").glob("*.yaml"))
RAY_MANIFESTS = [path for path in MANIFESTS if path.name.startswith("ray")]
DASHBOARDS = sorted((INFRA / "grafana").glob("*.json"))
CONFIGS = {"prepare": PrepareConfig, "train": TrainConfig, "render": RenderConfig}
RUNBOOK = (ROOT / "docs" / "operate.md").read_text()


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def tool(name: str) -> str:
    """The path of a program of this environment or of the system; skips the test where there is none."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian's package prometheus)")
    return found


# --- cluster launcher


def test_rays_own_validator_takes_the_cluster():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "ray-cluster.yaml").read_text())
    validate_config(prepare_config(copy.deepcopy(config)))
    pools = config["available_node_types"]
    assert {name: pool["min_workers"] for name, pool in pools.items()} == {"head": 0, "cpu": 0, "gpu-spot": 0}
    assert pools["gpu-spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "AWS_SECRET" not in (ROOT / "ray-cluster.yaml").read_text()  # roles, not keys
    for start in (config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]):
        assert "--metrics-export-port=8080" in start and "--object-spilling-directory" in start
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]


def test_what_is_submitted_is_small_and_whole():
    from capricious.cluster.preflight import working_directory

    found = working_directory(ROOT)
    assert found.level == "ok" and float(re.search(r"has ([\d.]+) MiB", found.found).group(1)) < 50
    ignored = (ROOT / ".rayignore").read_text().split()
    assert not {"jobs/", "platform/", "serve/", "pyproject.toml"} & set(ignored)


# --- image


def test_the_dockerfile_is_linted():
    linted = run(tool("hadolint"), "--failure-threshold", "warning", str(INFRA / "docker/Dockerfile"))
    assert linted.returncode == 0, linted.stdout


def test_the_image_holds_what_the_code_asks_for():
    text = (INFRA / "docker/Dockerfile").read_text()
    assert re.findall(r"^USER (.*)$", text, re.M) == ["1000"]
    for command in re.findall(r"weights fetch ((?:[\w-]+|\\\n\s*| )+)", text):
        for name in command.replace("\\", " ").split():
            weights.get(name)  # raises for a name that the registry does not have
    for copied in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.M):
        for name in copied.split():
            assert (ROOT / name).exists(), name


def test_the_lock_holds_every_dependency_with_hashes():
    import tomllib

    locked = (INFRA / "docker/requirements.txt").read_text()
    pinned = dict(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==(\S+)", locked, re.M))
    assert locked.count("--hash=sha256:") > len(pinned)
    for dependency in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        name = re.match(r"[A-Za-z0-9_.-]+", dependency).group().lower().replace("_", "-")
        assert name in pinned or name in ("torch", "opencv-python"), f"{name} is missing: run `make lock`"
    assert yaml.safe_load((INFRA / "kuberay/raycluster.yaml").read_text())["spec"]["rayVersion"] == pinned["ray"]


# --- Kubernetes


def pods_of(document: dict) -> list[dict]:
    """All pod templates of a RayCluster, RayJob or RayService."""
    spec = document["spec"]
    cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


@pytest.mark.parametrize("path", RAY_MANIFESTS, ids=lambda path: path.name)
def test_pods_fulfil_kubernetes_own_schema_and_run_unprivileged(path):
    import kubernetes_validate

    document = yaml.safe_load(path.read_text())
    for template in pods_of(document):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, "1.31", strict=True)
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        (container,) = template["spec"]["containers"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        names = [variable["name"] for variable in container["env"]]
        assert len(names) == len(set(names))
        for variable in container["env"]:
            secret = re.search("TOKEN|PASSWORD|SECRET|KEY", variable["name"])
            assert not secret or "secretKeyRef" in variable["valueFrom"], variable
        assert {"name": "metrics", "containerPort": 8080} in container["ports"]


@pytest.mark.parametrize("path", RAY_MANIFESTS, ids=lambda path: path.name)
def test_clusters_ask_for_a_token_and_jobs_clean_up(path):
    document = yaml.safe_load(path.read_text())
    spec = document["spec"]
    cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    assert cluster["authOptions"] == {"mode": "token", "secretName": "capricious-ray-auth"}
    assert cluster["autoscalerOptions"]["version"] == "v2"
    if document["kind"] == "RayJob":
        rules = spec["deletionStrategy"]["deletionRules"]
        assert {"policy": "DeleteCluster", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 60}} in rules
        interpreter, script, *arguments = spec["entrypoint"].split()
        assert (interpreter, Path(script).parent) == ("python", Path("/home/ray/jobs"))
        job = Path(script).stem
        config = parse(CONFIGS[job], arguments, description="").config  # exits for what the job does not know
        # The pools start empty, so nothing can be made out of the number of CPUs.
        assert config.workers and (job != "train" or config.cpus_per_worker)
        # KubeRay tries again what does not end with 0, and one bad picture among millions is no reason to.
        assert job == "train" or config.accept_failures
    if document["kind"] == "RayService":
        from serve.arguments import PortraitArguments

        (application,) = yaml.safe_load(spec["serveConfigV2"])["applications"]
        arguments = PortraitArguments(**application["args"])
        # Replicas are on workers, and only the head has a job server; KubeRay names its service so.
        assert arguments.jobs_address == f"http://{document['metadata']['name']}-head-svc:8265"
        assert spec["upgradeStrategy"]["type"] == "NewClusterWithIncrementalUpgrade"
        assert "redisAddress" in cluster["gcsFaultToleranceOptions"]


def test_jobs_run_on_the_clusters_own_pods():
    """The manifests are written out, as kubectl knows no templates: what is changed in one must be changed in all."""
    standing = yaml.safe_load((INFRA / "kuberay/raycluster.yaml").read_text())["spec"]
    groups = {group["groupName"]: group for group in standing["workerGroupSpecs"]}
    for path in (INFRA / "kuberay").glob("rayjob-*.yaml"):
        cluster = yaml.safe_load(path.read_text())["spec"]["rayClusterSpec"]
        assert cluster["workerGroupSpecs"] == [groups[group["groupName"]] for group in cluster["workerGroupSpecs"]]
        assert {**cluster, "workerGroupSpecs": ()} == {**standing, "workerGroupSpecs": ()}


def test_the_network_policy_is_one():
    import kubernetes_validate

    document = yaml.safe_load((INFRA / "kuberay/network-policy.yaml").read_text())
    kubernetes_validate.validate(document, "1.31", strict=True)
    assert [rule for rule in document["spec"]["ingress"] if "from" not in rule] == []  # nobody is let in by default


@pytest.mark.skipif("PUBLISHED_CRDS" not in os.environ, reason="PUBLISHED_CRDS names no folder of CRDs")
@pytest.mark.parametrize("path", [*RAY_MANIFESTS, INFRA / "kuberay/pod-monitor.yaml"], ids=lambda path: path.name)
def test_manifests_fulfil_the_published_crds(path):
    import jsonschema

    document = yaml.safe_load(path.read_text())
    schemas = {}
    for crd in map(yaml.safe_load, (p.read_text() for p in Path(os.environ["PUBLISHED_CRDS"]).glob("*.yaml"))):
        (version,) = (v for v in crd["spec"]["versions"] if v["name"] == "v1")
        schemas[crd["spec"]["names"]["kind"]] = closed(version["schema"]["openAPIV3Schema"])
    schema = schemas[document["kind"]]
    schema["properties"] |= {"metadata": {}, "apiVersion": {}, "kind": {}}
    jsonschema.Draft202012Validator(schema).validate(document)


def closed(schema):
    """Refuses unknown fields, as the API server prunes them without a word; reads int-or-string as such."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    schema = {name: closed(value) for name, value in schema.items()}
    open_ended = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if schema.get("type") == "object" and "properties" in schema and not open_ended:
        schema["additionalProperties"] = False
    return schema


# --- metrics


def expressions() -> list[str]:
    """Every PromQL expression of rules and dashboards."""
    rules = yaml.safe_load((INFRA / "prometheus/rules.yaml").read_text())
    found = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    for path in DASHBOARDS:
        found += [target["expr"] for panel in json.loads(path.read_text())["panels"] for target in panel["targets"]]
    return found


def metrics_used() -> set[str]:
    """Every metric of ours that rules and dashboards name, as Prometheus sees it."""
    return set(re.findall(r"\b(?:ray_)?capricious_\w+", " ".join(expressions())))


def test_rules_and_dashboards_use_metrics_that_exist():
    for used in metrics_used():
        name = re.sub(r"_(bucket|sum|count)$", "", used.removeprefix("ray_"))
        assert name in METRICS, f"{used} is no metric of capricious.metrics"
        if used.endswith(("_bucket", "_sum")):
            assert METRICS[name].kind == "histogram"
        # Finished jobs are seen without Ray, all others through it.
        assert used.startswith("ray_") != name.startswith("capricious_batch_last_")
    recorded = {r for e in expressions() for r in re.findall(r"capricious:[\w:]+", e)}
    rules = yaml.safe_load((INFRA / "prometheus/rules.yaml").read_text())
    assert recorded <= {rule.get("record") for group in rules["groups"] for rule in group["rules"]}


def test_metrics_are_named_as_prometheus_wants_it():
    for name, metric in METRICS.items():
        assert re.fullmatch(r"capricious_[a-z_]+", name) and metric.meaning.endswith(".")
        assert (metric.kind == "counter") == name.endswith("_total")
        assert (metric.kind == "histogram") == bool(metric.buckets)
        assert "job" not in metric.labels and "instance" not in metric.labels  # Prometheus' own


def test_every_metric_of_a_run_has_a_name():
    told = of_training(
        {"kimg": 2.5, "gan": 1.0, "share/gan": 0.5, "logits/real": 2.0, "held_out/l1": 9.0, "minutes": 1}
    )
    assert told == [
        ("capricious_training_images", {}, 2500.0),
        ("capricious_training_loss", {"name": "gan"}, 1.0),
        ("capricious_training_loss_share_ratio", {"name": "gan"}, 0.5),
        ("capricious_training_logits", {"name": "real"}, 2.0),
        ("capricious_training_score", {"name": "held_out/l1"}, 9.0),
    ]
    assert all(set(labels) | {"run"} == set(METRICS[name].labels) for name, labels, _ in told)


def test_every_alert_has_a_runbook_and_every_panel_a_meaning():
    rules = yaml.safe_load((INFRA / "prometheus/rules.yaml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    tested = (INFRA / "prometheus/rules_test.yaml").read_text()
    for alert in alerts:
        page, _, anchor = alert["annotations"]["runbook_url"].rpartition("/")[2].partition("#")
        assert page == "operate.md" and anchor == alert["alert"].lower()
        assert f"### {alert['alert']}" in RUNBOOK and alert["alert"] in tested
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            assert f"| {path.stem} | {panel['title']} | {panel['description']} |" in RUNBOOK


def test_promtool_takes_the_rules_and_their_tests():
    promtool = tool("promtool")
    commands = ("check rules rules.yaml", "test rules rules_test.yaml", "check config prometheus.yaml")
    for verb, what, file in map(str.split, commands):
        checked = run(promtool, verb, what, str(INFRA / "prometheus" / file))
        assert checked.returncode == 0, checked.stdout + checked.stderr
