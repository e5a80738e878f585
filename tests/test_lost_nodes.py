"""A cluster that loses a node under the service, or its head; a preflight of one with a node that is unlike the others.

The bundle has random weights: survival is tested. Needs root and iproute2; the head's memory outlives it in Debian's
redis-server.
"""

import json
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from cluster_tools import HEAD, NETWORK, RAY, ROOT, answers, finished, machines
from conftest import free_ports
from serve_tools import PHOTO, random_bundle

pytestmark = pytest.mark.slow

SERVE_PORT = 28000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return random_bundle(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "astronaut.jpg").write_bytes(PHOTO)
    return tmp_path / "pictures"


def ask(node, age: int) -> int:
    """Renders on one node; returns the status, 0 where nobody answers."""
    url = f"http://{node.address}:{SERVE_PORT}/v1/renders"
    try:
        fields = {"age": str(age), "sitter_age": "40", "composite": "face"}
        return httpx.post(url, files={"file": ("sitter.jpg", PHOTO)}, data=fields, timeout=30).status_code
    except httpx.HTTPError:
        return 0


def start_service(cluster, bundle: Path) -> subprocess.Popen:
    serve = str(Path(RAY).with_name("serve"))
    place = ["--http-host", "0.0.0.0", "--http-port", str(SERVE_PORT), "--proxy-location", "EveryNode"]
    subprocess.run(cluster.on_head(serve, "start", *place), env=cluster.env, check=True, capture_output=True)
    replicas = [f"{name}=2" for name in ("replicas", "max_replicas", "annotating_replicas")]
    replicas += ["annotating_max_replicas=2", "ingress_replicas=2", f"bundle={bundle}"]
    command = cluster.on_head(serve, "run", "--working-dir", str(ROOT), "serve.app:portrait", *replicas)
    log = (cluster.folder / "service.log").open("ab")
    return subprocess.Popen(command, env=cluster.env, cwd=ROOT, stdout=log, stderr=log)


def in_a_row(node, count: int, seconds: float) -> list[int]:
    """Asks until so many renders came one after the other; returns all statuses."""
    statuses: list[int] = []
    deadline = time.monotonic() + seconds
    while statuses[-count:] != [200] * count:
        assert time.monotonic() < deadline, statuses
        statuses.append(ask(node, 20 + len(statuses) % 50))
        if statuses[-1] != 200:
            time.sleep(1)
    return statuses


def test_a_power_cut_under_the_service(bundle):
    with machines((5, 5)) as cluster:
        service = start_service(cluster, bundle)
        lost, left = cluster.nodes
        in_a_row(lost, 3, 240)
        in_a_row(left, 3, 60)
        cluster.kill(lost)
        statuses = in_a_row(left, 20, 240)
        print(f"after the power cut: {statuses}")
        assert statuses.count(200) == len(statuses), statuses  # what was not under way there does not notice
        assert service.poll() is None
        service.kill()


@pytest.fixture
def redis():
    """Address of what the head of a cluster keeps its memory in."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no Redis here: apt-get install redis-server")
    (port,) = free_ports(1)
    command = [program, "--port", str(port), "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    yield f"{NETWORK}.254:{port}"
    server.terminate()
    server.wait()


def test_the_head_is_lost_and_comes_back(bundle, pictures, tmp_path, redis):
    """With its memory in Redis: the service answers all the while, and jobs run when the head is back."""
    with machines(RAY_REDIS_ADDRESS=redis, RAY_gcs_rpc_server_reconnect_timeout_s="300") as cluster:
        node = cluster.add(8)
        service = start_service(cluster, bundle)
        in_a_row(node, 3, 240)
        cluster.head.kill()
        service.wait(30)
        without = [ask(node, 30 + number) for number in range(20)]
        assert without == [200] * 20, without
        cluster.start_head()
        cluster.wait(lambda: cluster.alive().keys() == {HEAD, node.address}, 180, "the node has not come back")
        ready = f"http://{node.address}:{SERVE_PORT}/readyz"
        cluster.wait(lambda: answers(ready) == 200, 60, "the service does not say that it is ready")
        in_a_row(node, 5, 120)
        out = tmp_path / "prepared"
        finished(cluster.start_job("prepare.py", "--source", str(pictures), "--out", str(out)), 0)
        assert json.loads((out / "_manifest.json").read_text())
        told = cluster.ask("from ray import serve; print(serve.status().applications['default'].status.value)")
        assert told.splitlines()[-1] == "RUNNING", told


def test_the_preflight_finds_what_is_wrong_with_one_of_three_nodes(pictures, tmp_path):
    """A folder that only one node has, weights that it lacks, GPUs that nobody has."""
    shared, private = tmp_path / "shared", tmp_path / "private"
    for folder in (shared, private):
        folder.mkdir()
    with machines((1, 1)) as cluster:
        odd = cluster.add(1, private=(str(private),), CAPRICIOUS_CACHE=str(tmp_path / "empty"))
        places = ["--reads", str(pictures), "--writes", str(shared), str(private)]
        found = finished(cluster.start_job("preflight.py", *places, "--gpus", "8", "--weights", "blazeface"), 1)
        lines = [line for line in found.splitlines() if not line.startswith("ok ")]
        print("\n".join(lines))
        (unshared,) = [line for line in lines if "is not shared" in line]
        assert unshared.startswith("error") and str(private) in unshared and odd.address in unshared
        (weight,) = [line for line in lines if "weights:" in line]
        assert weight.startswith("warning") and f"{odd.address} lacks blazeface" in weight
        assert any(line.startswith("warning GPUs: 8 wanted, the cluster has 0") for line in lines)
        refused = cluster.start_job("prepare.py", "--source", str(pictures), "--out", str(private))
        assert "is not shared" in finished(refused, 1)
