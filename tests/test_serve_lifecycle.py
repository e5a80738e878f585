"""How the service ends, and how it grows and shrinks with its load. Random weights: wiring only."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from serve_tools import PHOTO, free_port, random_bundle

pytestmark = pytest.mark.slow

PORT = free_port()
FILES = {"file": ("sitter.jpg", PHOTO)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return random_bundle(tmp_path_factory.mktemp("lifecycle") / "random", 128, 24)


@pytest.fixture
def service(bundle, tmp_path):
    """Starts `capricious serve` with more arguments, in a process group of its own, as a terminal does."""
    started = []
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: paths of sockets have a limit
    environment = os.environ | {"RAY_TMPDIR": folder}
    log = (tmp_path / "log").open("wb")

    def start(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "capricious", "serve", f"bundle={bundle}", f"port={PORT}", *arguments]
        process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=log, stderr=log)
        started.append(process)
        deadline = time.monotonic() + 240
        while status("/readyz") != 200:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.5)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    log.close()
    shutil.rmtree(folder, ignore_errors=True)


def status(path: str) -> int:
    try:
        return httpx.get(f"http://127.0.0.1:{PORT}{path}", timeout=10).status_code
    except httpx.HTTPError:
        return 0


def sweep(seen: threading.Event, ages: str = "1:60:1", port: int = PORT) -> list[str]:
    """Asks for a stream of variants and returns its lines; tells when the first variant is there."""
    asked = {"ages": ages, "format": "ndjson", "composite": "face"}
    lines = []
    with httpx.stream("POST", f"http://127.0.0.1:{port}/v1/sweeps", data=asked, files=FILES, timeout=120) as answer:
        for line in answer.iter_lines():
            lines.append(line)
            if len(lines) == 2:
                seen.set()
    return lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_finishes_what_it_has_in_hand(service, number):
    process, seen = service(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(sweep, seen)
        assert seen.wait(60)
        # Ctrl-C in a terminal goes to all of its processes, a container's end to the first one.
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        lines = asked.result()
    assert len(lines) == 62 and '"kind":"done"' in lines[-1], lines[-1][:300]
    assert process.wait(60) == 0
    assert status("/readyz") == 0


@pytest.fixture
def elastic_port(ray_cluster, bundle):
    """The port of a service that may have two models."""
    from ray import serve

    from serve.app import portrait
    from serve.arguments import PortraitArguments

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(portrait(PortraitArguments(bundle=str(bundle), max_replicas=2)), name="elastic")
    yield port
    serve.delete("elastic")
    serve.shutdown()


def models() -> int:
    """Counts the models that are up."""
    from ray import serve

    states = serve.status().applications["elastic"].deployments["Rendering"].replica_states
    return states.get("RUNNING", 0)


def test_models_come_with_the_load_and_go_with_it(elastic_port):
    assert models() == 1
    until, most, draw, answers = time.monotonic() + 240, 1, random.Random(0), []
    with ThreadPoolExecutor(8) as pool:
        while most < 2 and time.monotonic() < until:
            while sum(not answer.done() for answer in answers) < 8:
                ages = ",".join(f"{draw.uniform(1, 99):.3f}" for _ in range(20))  # none that was rendered before
                answers.append(pool.submit(sweep, threading.Event(), ages, elastic_port))
            time.sleep(1)
            most = models()
    assert most == 2
    assert all('"kind":"done"' in answer.result()[-1] for answer in answers)
    until = time.monotonic() + 900  # Ray waits for ten minutes of calm before a model goes
    while models() > 1:
        assert time.monotonic() < until
        time.sleep(5)
    assert '"kind":"done"' in sweep(threading.Event(), "20,60", elastic_port)[-1]
