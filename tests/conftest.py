"""What is slow to start and shared: one Ray for the whole test session, a real S3-compatible server for a module."""

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError

# Before anything imports what reads them.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"


@pytest.fixture(scope="session")
def ray_cluster():
    """A local Ray with four logical CPUs and its own folder: no stale address file can make it wait."""
    import ray

    from capricious.cluster.session import PATIENCE

    folder = tempfile.mkdtemp(prefix="ray-")  # not pytest's: paths of sockets must be short
    os.environ.update({"RAY_TMPDIR": folder, **PATIENCE})
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports that are free, as are those 10000 above them, which the server opens for gRPC."""

    def is_free(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    found = (port for port in range(21000 + os.getpid() % 1000, 30000) if is_free(port) and is_free(port + 10000))
    return list(itertools.islice(found, count))


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """An empty bucket on a SeaweedFS server that knows one key."""
    from capricious.data import storage

    folder = tmp_path_factory.mktemp("s3")
    identity = {
        "name": "test",
        "credentials": [{"accessKey": "testkey", "secretKey": "testsecret"}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    port, master, volume, filer = free_ports(4)
    weed = str(Path(sys.executable).with_name("weed"))
    command = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
    command += ["-filer=true", "-s3=true", f"-s3.port={port}", f"-s3.config={folder}/s3.json"]
    command += ["-volume.max=20", "-master.volumeSizeLimitMB=64"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # unused, on fixed ports: a second server could not start
    before = dict(os.environ)
    os.environ.update(
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
        AWS_ACCESS_KEY_ID="testkey",
        AWS_SECRET_ACCESS_KEY="testsecret",
        AWS_DEFAULT_REGION="us-east-1",
    )
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield _bucket_when_up(f"museum-{port}", deadline=time.monotonic() + 90)
    finally:
        server.kill()  # it would take half a minute to say goodbye
        server.wait()
        storage._filesystem.cache_clear()
        os.environ.clear()
        os.environ.update(before)


def _bucket_when_up(name: str, deadline: float) -> str:
    from capricious.data import storage

    while True:
        fs, _ = storage.locate(f"s3://{name}")
        try:
            fs.mkdir(name)
            return f"s3://{name}"
        except (OSError, ValueError, BotoCoreError):
            if time.monotonic() > deadline:
                raise
            storage._filesystem.cache_clear()
            time.sleep(1)
