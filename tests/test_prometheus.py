"""A real Prometheus on a real Ray: each metric of ours that rules and dashboards use is there while the platform runs.

Needs Debian's package `prometheus`; skipped where there is none.
"""

import json
import os
import subprocess
import time
import urllib.parse
import urllib.request

import pytest
import yaml
from conftest import free_ports
from ray import serve
from serve_tools import PHOTO, free_port, random_bundle
from test_infra import INFRA, metrics_used, tool
from training_tools import tiny_config, write_dataset

from capricious.client import Client, ServiceProblem
from capricious.cluster import batch_metrics
from capricious.cluster.prepare import PrepareConfig, prepare
from capricious.cluster.render import RenderConfig, render
from capricious.cluster.train import TrainConfig, run_training
from serve.app import portrait
from serve.arguments import PortraitArguments


@pytest.fixture(scope="module")
def prometheus(ray_cluster, tmp_path_factory):
    """Address of a Prometheus with our rules and our configuration, which finds the cluster as on a head node."""
    import ray

    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "rules.yaml").write_text((INFRA / "prometheus/rules.yaml").read_text())
    config = yaml.safe_load((INFRA / "prometheus/prometheus.yaml").read_text())
    (nodes,) = config["scrape_configs"][0]["file_sd_configs"]
    assert nodes["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]  # where Ray's folder is the default one
    (node,) = ray.nodes()
    found = [{"labels": {}, "targets": [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"]}]
    (folder / "nodes.json").write_text(json.dumps(found))
    nodes["files"] = [str(folder / "nodes.json")]
    config["global"] = {"scrape_interval": "2s", "evaluation_interval": "2s"}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    command = [tool("prometheus"), f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    server = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def ask(prometheus: str, path: str, **query: str) -> dict:
    address = f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(address, timeout=10) as response:
        return json.load(response)["data"]


@pytest.fixture
def service(ray_cluster, tmp_path):
    """Address of the service on Ray Serve."""
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(portrait(PortraitArguments(bundle=str(random_bundle(tmp_path / "served")))), name="counted")
    yield f"http://127.0.0.1:{port}"
    serve.delete("counted")
    serve.shutdown()


@pytest.mark.slow
def test_all_that_rules_and_dashboards_use_is_scraped_from_work_that_runs(prometheus, service, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "astronaut.jpg").write_bytes(PHOTO)
    (pictures / "letter.jpg").write_bytes(b"Dear museum")
    source, bundle = str(pictures), str(random_bundle(tmp_path / "bundle"))

    prepare(PrepareConfig(source=source, out=str(tmp_path / "prepared"), workers=1))
    render(RenderConfig(source=source, bundle=bundle, out=str(tmp_path / "sweeps"), ages="20,70", workers=1))
    data = write_dataset(tmp_path / "data", count=12, held_out=4)
    run_training(TrainConfig((data,), str(tmp_path / "run"), cpus_per_worker=1, training=tiny_config()))

    used = {name for name in metrics_used() if not name.startswith("capricious_batch_last_")}
    used -= {"ray_capricious_training_gpu_memory_bytes"}  # there is no GPU
    deadline = time.monotonic() + 120
    with Client(service) as client:
        while missing := used - set(ask(prometheus, "label/__name__/values")):
            assert time.monotonic() < deadline, f"never scraped: {sorted(missing)}"
            client.sweep(PHOTO, ages="20,70")
            with pytest.raises(ServiceProblem):
                client.sweep(b"Dear museum", ages="20")
            time.sleep(2)

    rules = [rule for group in ask(prometheus, "rules")["groups"] for rule in group["rules"]]
    assert len(rules) == 14 and {rule["health"] for rule in rules} == {"ok"}
    targets = ask(prometheus, "targets")["activeTargets"]
    assert {target["health"] for target in targets if target["labels"]["job"] == "ray"} == {"up"}
    counted = 'sum(ray_capricious_batch_pictures_total{kind="prepare",outcome="done"})'
    assert ask(prometheus, "query", query=counted)["result"][0]["value"][1] == "1"


def test_a_finished_job_leaves_its_end_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(batch_metrics.FOLDER, str(tmp_path))
    batch_metrics.ended("render", 3, 12.5)
    text = (tmp_path / "capricious-render.prom").read_text()
    assert 'capricious_batch_last_exit_code{kind="render"} 3.0' in text
    assert 'capricious_batch_last_duration_seconds{kind="render"} 12.5' in text
    monkeypatch.delenv(batch_metrics.FOLDER)
    os.remove(tmp_path / "capricious-render.prom")
    batch_metrics.ended("render", 0, 1.0)
    assert list(tmp_path.iterdir()) == []


def test_a_gateway_that_is_away_changes_nothing_about_a_job(monkeypatch, capsys):
    (port,) = free_ports(1)
    monkeypatch.setenv(batch_metrics.GATEWAY, f"127.0.0.1:{port}")
    batch_metrics.ended("render", 0, 1.0)
    assert "warning: the end of this job is not in the metrics" in capsys.readouterr().err
