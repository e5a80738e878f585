"""What serving costs: the raw renderer, this service, and the same model behind plain FastAPI and behind LitServe.

    pip install -e '.[benchmark]'
    python benchmarks/serve.py [--requests 96] [--callers 8] [--rounds 3] [--width 32]

Random weights: only time is measured. Every request asks for one variant of one of four faces at 128 px, as a slider
does. All have the faces annotated beforehand, all encode the same PNG, all have one thread for the model. Rounds
alternate between the services, medians are compared, so that a noisy machine disturbs all alike. Then the load is
halved, and this service's latencies are told. Read the ratios, not the milliseconds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
import numpy as np
from serve_tools import free_port, random_bundle
from skimage.data import astronaut

from capricious.annotate.annotator import Annotator, AnnotatorConfig
from capricious.faces.image import decode, encode
from capricious.model.bundle import load_bundle
from capricious.render.renderer import Renderer
from capricious.render.sweep import Sweep

PORTRAITS = [encode(astronaut()[:320, 60 + 8 * i : 380 + 8 * i], "png") for i in range(4)]
AGES = range(5, 100)


def asked(count: int) -> list[tuple[int, int]]:
    """Portrait and age of each request."""
    ages = cycle(AGES)
    return [(i % len(PORTRAITS), next(ages)) for i in range(count)]


class Model:
    """What the peers serve: the plain renderer, one request at a time, with the faces known."""

    def __init__(self, bundle: str):
        self.renderer = Renderer(load_bundle(bundle), threads=1)
        annotator = Annotator(AnnotatorConfig(resolution=self.renderer.resolution))
        self.faces = [annotator.annotate(decode(portrait, name="portrait"))[0] for portrait in PORTRAITS]

    def render(self, portrait: int, age: float) -> bytes:
        variant = Sweep((age,)).variants()[-1]
        return encode(self.renderer.render(self.faces[portrait], [variant])[0], "png")


def run_fastapi(bundle: str, port: int) -> None:
    import uvicorn
    from fastapi import FastAPI, Form, Response, UploadFile

    app, model = FastAPI(), Model(bundle)
    worker = ThreadPoolExecutor(1)

    @app.post("/render")
    async def render(file: UploadFile, portrait: int = Form(), age: float = Form()) -> Response:
        import asyncio

        await file.read()
        content = await asyncio.get_running_loop().run_in_executor(worker, model.render, portrait, age)
        return Response(content, media_type="image/png")

    uvicorn.run(app, port=port, log_level="warning")


def run_litserve(bundle: str, port: int) -> None:
    import litserve
    from fastapi import Request, Response

    class API(litserve.LitAPI):
        def setup(self, device):
            self.model = Model(bundle)

        def decode_request(self, request: Request):
            return int(request["portrait"]), float(request["age"])

        def predict(self, asked):
            return self.model.render(*asked)

        def encode_response(self, output):
            return Response(output, media_type="image/png")

    server = litserve.LitServer(API(api_path="/render"), accelerator="cpu", workers_per_device=1)
    server.run(port=port, log_level="warning", generate_client_file=False, num_api_servers=1)


def run_capricious(bundle: str, port: int, max_batch: int) -> None:
    import ray
    from ray import serve

    from capricious.cluster.session import PATIENCE

    os.environ.update({"RAY_TMPDIR": tempfile.mkdtemp(prefix="ray-"), **PATIENCE})
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    from serve.app import portrait
    from serve.arguments import PortraitArguments

    serve.run(portrait(PortraitArguments(bundle=bundle, max_batch=max_batch)), blocking=True)


class Service:
    """One of them, in a process of its own."""

    def __init__(self, name: str, bundle: str):
        self.name, self.port = name, free_port()
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--peer", name, "--bundle", bundle, "--port", str(self.port)]
        )
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=300)

    def wait(self) -> None:
        """Returns when it answers; every portrait has been asked for once, so that all of them are known."""
        for portrait in range(len(PORTRAITS)):
            while True:
                assert self.process.poll() is None, f"{self.name} has stopped"
                try:
                    if self.render(portrait, 50) is not None:
                        break
                except httpx.TransportError:
                    time.sleep(1)

    def render(self, portrait: int, age: float) -> bytes | None:
        fields: dict[str, str] = {"age": str(age)}
        path = "/v1/renders" if self.name.startswith("capricious") else "/render"
        if path == "/render":
            fields["portrait"] = str(portrait)
        else:
            fields["composite"] = "face"
        answer = self.http.post(path, data=fields, files={"file": ("portrait.png", PORTRAITS[portrait])})
        return answer.content if answer.status_code == 200 else None

    def load(self, requests: list[tuple[int, int]], callers: int) -> tuple[float, list[float]]:
        """Returns requests per second and the latency of each."""

        def timed(request: tuple[int, int]) -> float:
            started = time.perf_counter()
            assert self.render(*request) is not None, f"{self.name} refused a request"
            return time.perf_counter() - started

        started = time.perf_counter()
        with ThreadPoolExecutor(callers) as pool:
            latencies = list(pool.map(timed, requests))
        return len(requests) / (time.perf_counter() - started), latencies

    def paced(self, requests: list[tuple[int, int]], per_second: float) -> list[float]:
        """Sends requests at a rate, however long the answers take; returns the latency of each."""
        with ThreadPoolExecutor(32) as pool:
            began = time.perf_counter()
            waiting = []
            for number, request in enumerate(requests):
                due = began + number / per_second
                time.sleep(max(0.0, due - time.perf_counter()))
                waiting.append(
                    pool.submit(lambda r, due: (self.render(*r), time.perf_counter() - due)[1], request, due)
                )
            return [each.result() for each in waiting]

    def _since(self, due: float, request: tuple[int, int]) -> float:
        assert self.render(*request) is not None, f"{self.name} refused a request"
        return time.perf_counter() - due


def raw(model: Model, requests: list[tuple[int, int]]) -> float:
    """Variants per second of the renderer alone, a full chunk of one face at a time: what can be had at all."""
    started = time.perf_counter()
    count = 0
    for portrait, face in enumerate(model.faces):
        ages = [float(age) for p, age in requests if p == portrait]
        for start in range(0, len(ages), model.renderer.chunk):
            variants = Sweep(tuple(dict.fromkeys(ages[start : start + model.renderer.chunk]))).variants()[1:]
            for picture in model.renderer.render(face, variants):
                encode(picture, "png")
                count += 1
    return count / (time.perf_counter() - started)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("requests", 96), ("callers", 8), ("rounds", 3), ("width", 32)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--peer", help=argparse.SUPPRESS)
    arguments.add_argument("--bundle", help=argparse.SUPPRESS)
    arguments.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    match options.peer:
        case "fastapi":
            return run_fastapi(options.bundle, options.port)
        case "litserve":
            return run_litserve(options.bundle, options.port)
        case "capricious" | "capricious, no batching":
            return run_capricious(options.bundle, options.port, 4 if options.peer == "capricious" else 1)
    folder = tempfile.mkdtemp(prefix="bundle-")
    bundle = str(random_bundle(Path(folder) / "bundle", 128, options.width))
    requests = asked(options.requests)
    services = [Service(name, bundle) for name in ("capricious", "fastapi", "litserve")]
    try:
        for service in services:
            service.wait()
        model = Model(bundle)
        rates: dict[str, list[float]] = {"raw renderer": []}
        for _ in range(options.rounds):
            rates["raw renderer"].append(raw(model, requests))
            for service in services:
                rates.setdefault(service.name, []).append(service.load(requests, options.callers)[0])
        best = statistics.median(rates["raw renderer"])
        print(f"{'':26}  {'variants/s':>10}  {'of the raw renderer':>20}")
        for name, found in rates.items():
            print(f"{name:26}  {statistics.median(found):>10.2f}  {statistics.median(found) / best:>20.2f}")
        half = statistics.median(rates["capricious"]) / 2
        latencies = services[0].paced(list(islice(cycle(requests), options.requests)), half)
        found = ", ".join(f"p{p} {1000 * np.percentile(latencies, p):.0f} ms" for p in (50, 95, 99))
        print(f"capricious at half that load ({half:.2f} variants/s): {found}")
    finally:
        for service in services:
            service.process.terminate()
            service.process.wait()


if __name__ == "__main__":
    main()
