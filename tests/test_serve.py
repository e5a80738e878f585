"""The service on a real Ray Serve: what only shows there. The bundle has random weights: wiring only."""

import hashlib
import io
import os
import signal
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from ray import serve
from serve_tools import PHOTO, free_port, random_bundle

from capricious.annotate.annotator import Annotator, AnnotatorConfig
from capricious.model.bundle import load_bundle
from capricious.render.picture import render_picture
from capricious.render.renderer import Renderer
from capricious.render.scan import read_scan
from capricious.render.sweep import Sweep
from serve.app import portrait
from serve.arguments import PortraitArguments

TOKEN = "a-curator's-long-secret"
FILE = {"file": ("sitter.jpg", PHOTO)}


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory):
    return random_bundle(tmp_path_factory.mktemp("serve") / "random", refined=True)


@pytest.fixture(scope="module")
def client(ray_cluster, bundle_folder):
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    arguments = PortraitArguments(bundle=str(bundle_folder), max_queued=6, retry_after_s=2, max_ongoing=200)
    os.environ["CAPRICIOUS_TOKENS"] = f"curator:{TOKEN}"
    try:
        application = portrait(arguments)
    finally:
        del os.environ["CAPRICIOUS_TOKENS"]
    serve.run(application, name="portrait", route_prefix="/portrait")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/portrait", timeout=120, headers=headers) as client:
        yield client
    serve.delete("portrait")
    serve.shutdown()


def test_the_service_and_the_batch_job_give_the_same_pixels(client, bundle_folder):
    archive = client.post("/v1/sweeps", files=FILE, data={"ages": "20:80:10", "format": "zip", "picture_format": "png"})
    assert archive.status_code == 200, archive.text
    renderer = Renderer(load_bundle(bundle_folder), threads=1)
    scan = read_scan(PHOTO, name="sitter.jpg")
    faces = Annotator(AnnotatorConfig(resolution=64)).annotate(scan.srgb)
    sha256 = hashlib.sha256(PHOTO).hexdigest()
    expected = render_picture(scan, faces, renderer, Sweep.parse("20:80:10"), source_sha256=sha256)
    with zipfile.ZipFile(io.BytesIO(archive.content)) as files:
        assert len(files.namelist()) == 7
        for variant, painting in expected.paintings():
            found = np.asarray(Image.open(io.BytesIO(files.read(f"{variant.name}.png"))))
            assert np.array_equal(found, painting.srgb), variant.name
            assert files.read(f"{variant.name}.png") == expected.file(variant.name)


def test_a_prefix_tokens_and_readiness_hold_behind_the_proxy(client):
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.get("/").headers["content-type"].startswith("text/html")
    assert client.get("/v1/bundle").status_code == 200
    refused = client.get("/v1/bundle", headers={"Authorization": "Bearer another-long-secret"})
    assert refused.status_code == 401 and refused.json()["reason"] == "unauthorized"


def test_overload_is_answered_at_once_with_a_time_to_come_back(client):
    def ask(age: float) -> httpx.Response:
        # Another age of another sitter each time: nothing of it has been rendered before.
        return client.post("/v1/renders", files=FILE, data={"age": str(age), "sitter_age": str(age + 1)})

    answers: list[httpx.Response] = []
    with ThreadPoolExecutor(40) as callers:
        for attempt in range(5):  # on a busy machine callers come one after the other, and nobody waits
            answers += callers.map(ask, [age + attempt / 10 for age in range(1, 41)])
            if any(answer.status_code == 429 for answer in answers):
                break
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 429}, statuses
    for answer in answers:
        if answer.status_code == 429:
            assert answer.headers["retry-after"] == "2" and answer.json()["reason"] == "overloaded"
    assert ask(50).status_code == 200


def replicas(deployment: str) -> list[int]:
    """Process ids of a deployment's replicas."""
    mine = [child for parent in psutil.process_iter() if parent.pid == os.getpid() for child in parent.children(True)]
    return [p.pid for p in mine if f"ServeReplica:portrait:{deployment}" in " ".join(p.cmdline())]


@pytest.mark.slow
def test_replicas_killed_under_load_lose_no_request(client):
    """Half a minute of load, a replica of the model, the annotator or the only ingress killed every five seconds."""
    stop = threading.Event()
    statuses: list[int] = []

    def load(number: int) -> None:
        while not stop.is_set():
            answer = client.post("/v1/renders", files=FILE, data={"age": str(number), "composite": "face"})
            statuses.append(answer.status_code)
            assert answer.headers["content-type"] in ("image/png", "application/problem+json"), answer.text

    killed = 0
    with ThreadPoolExecutor(3) as callers:
        futures = [callers.submit(load, 20 + number) for number in range(3)]
        for deployment in ("Rendering", "Annotating", "Ingress", "Rendering", "Ingress"):
            time.sleep(5)
            for victim in replicas(deployment)[:1]:  # none while it is being replaced
                os.kill(victim, signal.SIGKILL)
                killed += 1
        time.sleep(20)
        stop.set()
        for future in futures:
            future.result()
    assert killed >= 2 and statuses.count(200) > 10, (killed, statuses)
    assert set(statuses) <= {200, 429, 503, 504}, statuses
    assert client.post("/v1/renders", files=FILE, data={"age": "33"}).status_code == 200
