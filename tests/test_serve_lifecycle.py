"""How the service ends, and how it grows and shrinks with its load. Random weights: wiring only."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from serve_tools import PHOTO, random_bundle

pytestmark = pytest.mark.slow

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
        command = [sys.executable, "-m", "capricious", "serve", f"bundle={bundle}", *arguments]
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
        return httpx.get(f"http://127.0.0.1:8000{path}", timeout=10).status_code
    except httpx.HTTPError:
        return 0


def sweep(seen: threading.Event, ages: str = "1:60:1") -> list[str]:
    """Asks for a stream of variants and returns its lines; tells when the first variant is there."""
    asked = {"ages": ages, "format": "ndjson", "composite": "face"}
    lines = []
    with httpx.stream("POST", "http://127.0.0.1:8000/v1/sweeps", data=asked, files=FILES, timeout=120) as answer:
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


def models(process: subprocess.Popen) -> int:
    """Counts the replicas of the model below a service."""
    below = psutil.Process(process.pid).children(recursive=True)
    return sum("ServeReplica:default:Rendering" in " ".join(child.cmdline()) for child in below if child.is_running())


def test_models_come_with_the_load_and_go_with_it(service):
    process = service("max_replicas=2")
    assert models(process) == 1
    until, most = time.monotonic() + 180, 1
    with ThreadPoolExecutor(8) as pool:
        answers = []
        while most < 2 and time.monotonic() < until:
            answers = [answer for answer in answers if not answer.done() or "done" not in answer.result()[-1]]
            while len(answers) < 8:
                answers.append(pool.submit(sweep, threading.Event(), "20:40:1"))
            time.sleep(1)
            most = models(process)
        for answer in answers:
            assert '"kind":"done"' in answer.result()[-1]
    assert most == 2
    until = time.monotonic() + 900  # Ray waits for ten minutes of calm before a model goes
    while models(process) > 1:
        assert time.monotonic() < until
        time.sleep(5)
    assert status("/readyz") == 200
