"""Render while its storage misbehaves: a store that is away, one that is slow and busy, a disk that is full."""

import http.client
import itertools
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from conftest import free_ports
from skimage.data import astronaut

from capricious.cluster.ledger import done_shards
from capricious.cluster.plan import PLAN, read_plan
from capricious.data import storage
from capricious.faces.image import encode
from capricious.model.bundle import save_bundle
from capricious.model.encoder import EncoderConfig, StyleEncoder
from capricious.model.generator import Generator, GeneratorConfig

pytestmark = pytest.mark.slow

PORTRAITS = 8


@pytest.fixture
def museum(tmp_path):
    """A folder with portraits and a bundle of random weights: wiring."""
    save_bundle(
        tmp_path / "bundle",
        Generator(GeneratorConfig(resolution=64, width=2, hidden=4)),
        StyleEncoder(EncoderConfig(resolution=64, width=2)),
    )
    (tmp_path / "portraits").mkdir()
    for number in range(PORTRAITS):
        picture = encode(np.roll(astronaut(), 4 * number, 1), "jpeg")
        (tmp_path / "portraits" / f"{number}.jpg").write_bytes(picture)
    return tmp_path


def upload(museum, bucket):
    for folder in ("bundle", "portraits"):
        storage.upload_folder(str(museum / folder), f"{bucket}/{folder}")


def command(place, out):
    arguments = ["--source", f"{place}/portraits", "--bundle", f"{place}/bundle", "--out", out, "--ages", "20,70"]
    return [*arguments, "--shard-size", "1", "--workers", "1"]


def finished(job):
    printed, _ = job.communicate()
    return job.returncode, printed


def assert_whole(start_job, out):
    code, printed = finished(start_job("verify.py", "--out", out, "--workers", "1"))
    assert code == 0 and f"{4 * PORTRAITS} ok, 0 failed, 0 skipped; 0 problems" in printed, printed


def test_a_store_that_is_away_for_20_seconds_in_mid_run(store, bucket, museum, start_job):
    upload(museum, bucket)
    out = f"{bucket}/away"
    job = start_job("render.py", *command(bucket, out))
    while not (storage.exists(storage.join(out, PLAN)) and done_shards(read_plan(out))):
        assert job.poll() is None, job.communicate()
        time.sleep(0.1)
    store.kill()
    time.sleep(20)
    assert job.poll() is None  # it waits
    store.start()
    code, printed = finished(job)
    assert code == 0, printed
    assert_whole(start_job, out)


def test_a_store_that_stays_away_costs_no_portrait(store, bucket, museum, start_job, monkeypatch):
    upload(museum, bucket)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # our minute of patience is tested, not botocore's
    out = str(museum / "sweeps")
    job = start_job("render.py", *command(bucket, out))
    while not (storage.exists(storage.join(out, PLAN)) and done_shards(read_plan(out))):
        assert job.poll() is None, job.communicate()
        time.sleep(0.1)
    store.kill()
    code, printed = finished(job)
    last = printed.strip().splitlines()[-1]
    assert code == 1 and last.startswith("error: the object store cannot be reached"), printed
    assert "put that right and run the same command again" in last
    assert len(done_shards(read_plan(out))) < PORTRAITS
    store.start()
    code, printed = finished(start_job("render.py", *command(bucket, out)))
    assert code == 0, printed
    assert_whole(start_job, out)


class Moody(BaseHTTPRequestHandler):
    """Passes requests on to a store, but refuses every fifth and lets every third wait."""

    protocol_version = "HTTP/1.1"
    behind = 0
    numbers = itertools.count(1)
    refused = 0

    def pass_on(self) -> None:
        number = next(self.numbers)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if number % 3 == 0:
            time.sleep(0.5)
        if number % 5 == 0:
            type(self).refused += 1
            answer = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            self.answer(503, [("Content-Length", str(len(answer)))], answer)
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.behind)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():  # the host, too: the signature covers it
            if name.lower() != "expect":
                connection.putheader(name, value)
        connection.endheaders(body or None)
        found = connection.getresponse()
        content = found.read()
        headers = [(k, v) for k, v in found.getheaders() if k.lower() not in ("transfer-encoding", "connection")]
        if found.getheader("Content-Length") is None:
            headers.append(("Content-Length", str(len(content))))
        self.answer(found.status, headers, content)
        connection.close()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on

    def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


def test_a_store_that_is_slow_and_often_busy(store, bucket, museum, start_job, monkeypatch):
    upload(museum, bucket)
    (port,) = free_ports(1)
    Moody.behind = store.port
    proxy = ThreadingHTTPServer(("127.0.0.1", port), Moody)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    out = f"{bucket}/moody"
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")  # our patience is tested, not botocore's
        code, printed = finished(start_job("render.py", *command(bucket, out)))
    proxy.shutdown()
    assert code == 0, printed
    assert Moody.refused > 20
    assert_whole(start_job, out)


def test_a_full_disk_is_said_plainly_and_the_same_command_goes_on(small_disk, museum, start_job):
    disk, enlarge = small_disk
    out = str(disk / "sweeps")
    code, printed = finished(start_job("render.py", *command(museum, out)))
    assert code == 1
    last = printed.strip().splitlines()[-1]
    assert last.startswith("error: ") and "No space left on device" in last and "run the same command again" in last
    before = done_shards(read_plan(out))
    assert len(before) < PORTRAITS
    assert not [name for _, _, names in os.walk(disk) for name in names if name.endswith(".partial")]
    enlarge()
    code, printed = finished(start_job("render.py", *command(museum, out)))
    assert code == 0, printed
    assert_whole(start_job, out)
