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


JOBS = Path(__file__).resolve().parents[1] / "jobs"


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


@pytest.fixture(scope="module")
def cluster():
    """Ray nodes with networks of their own (cluster_tools); the tests of a module share them."""
    from cluster_tools import machines

    with machines() as cluster:
        yield cluster


@pytest.fixture
def two_nodes(cluster):
    """The same, with two nodes of one CPU at least: a test may have killed some."""
    while len(cluster.nodes) < 2:
        cluster.add(1)
    return cluster


def free_ports(count: int) -> list[int]:
    """Ports that are free, as are those 10000 above them, which the server opens for gRPC."""

    def is_free(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    found = (port for port in range(21000 + os.getpid() % 1000, 30000) if is_free(port) and is_free(port + 10000))
    return list(itertools.islice(found, count))


class Store:
    """A SeaweedFS server that knows one key, on a folder of its own. It can be killed and started again."""

    def __init__(self, folder: Path):
        identity = {
            "name": "test",
            "credentials": [{"accessKey": "testkey", "secretKey": "testsecret"}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        self.port, master, volume, filer = free_ports(4)
        self._log = folder / "log"
        weed = str(Path(sys.executable).with_name("weed"))
        self._command = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        self._command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
        self._command += ["-filer=true", "-s3=true", f"-s3.port={self.port}", f"-s3.config={folder}/s3.json"]
        self._command += ["-volume.max=20", "-master.volumeSizeLimitMB=64"]
        # Unused, on fixed ports: a second server could not start.
        self._command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(self._command, stdout=log, stderr=log)

    def kill(self) -> None:
        self._server.kill()  # it would take half a minute to say goodbye
        self._server.wait()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A server to which the environment points."""
    from capricious.data import storage

    server, before = Store(tmp_path_factory.mktemp("s3")), dict(os.environ)
    os.environ.update(
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.port}",
        AWS_ACCESS_KEY_ID="testkey",
        AWS_SECRET_ACCESS_KEY="testsecret",
        AWS_DEFAULT_REGION="us-east-1",
    )
    server.start()
    try:
        yield server
    finally:
        server.kill()
        storage._filesystem.cache_clear()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def bucket(store):
    """An empty bucket on it."""
    return _bucket_when_up(f"museum-{store.port}", deadline=time.monotonic() + 90)


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, headless, or the browser that CHROMIUM names."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 kB, and a way to enlarge it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, capture_output=True)

    try:
        mount("size=600k")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"may not mount a file system here: {error}")
    yield folder, lambda: mount("remount,size=64m")
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def start_job(ray_cluster):
    """Starts jobs/NAME with arguments on the session's Ray, as `ray job submit` with --runtime-env-json would."""
    import ray

    address, started = ray.get_runtime_context().gcs_address, []

    def start(name: str, *arguments: str) -> subprocess.Popen:
        # Ray's own processes are older than the store's credentials.
        credentials = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
        env = {
            "RAY_ADDRESS": address,
            "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": credentials}}),
        }
        command = [sys.executable, str(JOBS / name), *arguments]
        started.append(
            subprocess.Popen(
                command, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
        return started[-1]

    yield start
    for job in started:
        job.kill()
        job.wait()


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
