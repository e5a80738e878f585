"""Batches on a real cluster with a job server: submitted, followed, read and stopped over HTTP."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pytest
from serve_tools import PHOTO, free_port, random_bundle, running

from capricious.client import Client, ServiceProblem
from serve.arguments import PortraitArguments
from serve.gates import tokens_from_environment

TOKENS = {"anna": "0123456789abcdef", "ben": "fedcba9876543210"}


@pytest.fixture(scope="module")
def jobs_address():
    """A head node of its own, with four logical CPUs."""
    dashboard = free_port()
    folder = tempfile.mkdtemp(prefix="ray-")
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=4"]
    command += ["--node-ip-address=127.0.0.1", f"--port={free_port()}", f"--temp-dir={folder}"]
    command += [f"--dashboard-port={dashboard}"]
    # Ray reads the mode when it is imported, too early for this process; a replica gets it from its cluster.
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        head.terminate()
        head.wait()


@pytest.fixture(scope="module")
def service(jobs_address, tmp_path_factory):
    """Addresses of the service and of the folder where its batches may read and write."""
    folder = tmp_path_factory.mktemp("batches")
    bundle = random_bundle(folder / "bundle")
    collection = folder / "collection"
    collection.mkdir()
    (collection / "astronaut.jpg").write_bytes(PHOTO)
    (collection / "letter.jpg").write_bytes(b"Dear museum")
    os.environ["CAPRICIOUS_TOKENS"] = ",".join(f"{name}:{token}" for name, token in TOKENS.items())
    try:
        tokens = tokens_from_environment()
    finally:
        del os.environ["CAPRICIOUS_TOKENS"]
    prefixes = f"{collection},{folder}/out"
    arguments = PortraitArguments(bundle=str(bundle), batch_prefixes=prefixes, jobs_address=jobs_address)
    with running(arguments, tokens) as url:
        yield url, folder


def submitted(anna: Client, folder: Path, out: str) -> dict:
    deadline = time.monotonic() + 120
    while True:
        try:
            return anna.submit_batch(f"{folder}/collection", f"{folder}/out/{out}", ages="20,70")
        except ServiceProblem as problem:  # until the head node is up
            assert problem.reason == "no-job-server" and time.monotonic() < deadline, problem
            time.sleep(1)


@pytest.mark.slow
def test_a_batch_is_rendered_and_its_ledger_tells_all(service):
    url, folder = service
    with Client(url, TOKENS["anna"]) as anna, Client(url, TOKENS["ben"]) as ben:
        batch = submitted(anna, folder, "one")
        deadline = time.monotonic() + 240
        while batch["status"] in ("pending", "running"):
            assert time.monotonic() < deadline, batch
            time.sleep(2)
            batch = anna.batch(batch["id"])
        assert (batch["status"], batch["pictures"], batch["done"], batch["failed"]) == ("succeeded", 2, 2, 1), batch
        rows = list(anna.batch_results(batch["id"]))
        statuses = {(Path(row["uri"]).name, row["status"]) for row in rows}
        assert statuses == {("astronaut.jpg", "ok"), ("letter.jpg", "failed")}
        for row in rows:
            if row["status"] == "ok":
                assert (folder / "out/one" / row["file"]).is_file()
        for look in (ben.batch, ben.batch_results, ben.cancel_batch):  # another's is as good as none
            with pytest.raises(ServiceProblem) as caught:
                list(look(batch["id"]))
            assert (caught.value.status, caught.value.reason) == (404, "no-such-batch")


@pytest.mark.slow
def test_a_request_that_arrives_twice_is_one_batch(service):
    url, folder = service
    asked = {"source": f"{folder}/collection", "out": f"{folder}/out/three", "ages": "30"}
    with Client(url, TOKENS["anna"]) as anna, Client(url, TOKENS["ben"]) as ben:
        anna.cancel_batch(submitted(anna, folder, "zero")["id"])  # the head node is up

        def post(caller: str, **changes: str) -> httpx.Response:
            headers = {"Authorization": f"Bearer {TOKENS[caller]}", "Idempotency-Key": "of a proxy's"}
            return httpx.post(f"{url}/v1/batches", json={**asked, **changes}, headers=headers, timeout=60)

        answers = [post("anna"), post("anna"), post("ben", out=f"{folder}/out/four")]
        assert [answer.status_code for answer in answers] == [202] * 3, [answer.text for answer in answers]
        first, second, bens = (answer.json()["id"] for answer in answers)
        assert first == second != bens
        other = post("anna", ages="40")
        assert (other.status_code, other.json()["reason"]) == (422, "key-used")
        anna.cancel_batch(first)
        ben.cancel_batch(bens)


@pytest.mark.slow
def test_a_batch_is_stopped_and_bad_ones_never_start(service):
    url, folder = service
    with Client(url, TOKENS["anna"]) as anna:
        batch = anna.cancel_batch(submitted(anna, folder, "two")["id"])
        deadline = time.monotonic() + 60
        while batch["status"] != "stopped":
            assert time.monotonic() < deadline, batch
            time.sleep(1)
            batch = anna.batch(batch["id"])
        for source, out in (
            ("/etc", f"{folder}/out/x"),
            (f"{folder}/collection", "/tmp"),
            ("http://169.254.169.254/", f"{folder}/out/x"),
        ):
            with pytest.raises(ServiceProblem) as caught:
                anna.submit_batch(source, out)
            assert (caught.value.status, caught.value.reason) == (422, "place-not-allowed")
        with pytest.raises(ServiceProblem, match="ages must read like"):
            anna.submit_batch(f"{folder}/collection", f"{folder}/out/x", ages="young")
