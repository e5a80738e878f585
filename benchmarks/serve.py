"""What serving costs: the raw renderer, this service, and the same model behind plain FastAPI and behind LitServe.

    pip install -e '.[dev,benchmark]'
    python benchmarks/serve.py [--seconds 8] [--callers 12] [--rounds 3] [--bundle BUNDLE]

With the bundle that ships, or another. Every request uploads one of four portraits and asks for one variant of it, as a
slider does; ages do not repeat. All have the faces annotated beforehand, all answer with a PNG of the face at 128 px,
all have one thread for the model. The raw renderer has full forward passes of one remembered face, and makes no PNG:
nothing can be faster. Rounds alternate between the services, medians are compared, so that a noisy machine disturbs all
alike; peers are stopped (SIGSTOP) while it is not their turn, as LitServe polls its queues. The service without batches
is measured afterwards: Ray cannot be stopped for a while, and its idle replicas take a share of the cores, too. CPU is
that of a service's processes, Ray's too, but not the callers': it tells about the same on a busy machine. Then the load
is halved, and this service's latencies are told. Read the ratios, not the milliseconds.
"""

import argparse
import contextlib
import http.client
import itertools
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
import numpy as np
import psutil
from serve_peers import MAX_BATCH, PORTRAITS, Model
from serve_tools import free_port

from capricious.model.bundle import DEFAULT

BATCHING, SINGLY, FASTAPI, LITSERVE = "capricious", "capricious, no batching", "fastapi", "litserve"


def serve_ours(bundle: str, port: int, max_batch: int) -> None:
    """Runs the service until it is killed."""
    import ray
    from ray import serve

    from capricious.cluster.session import PATIENCE
    from serve.app import portrait
    from serve.arguments import PortraitArguments

    # Ray's workers are nicer than the peers (15 to 0): with anything else running, that would be measured too.
    os.environ.update({"RAY_TMPDIR": tempfile.mkdtemp(prefix="ray-"), "RAY_worker_niceness": "0", **PATIENCE})
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(portrait(PortraitArguments(bundle=bundle, max_batch=max_batch)))
    signal.pause()


class Service:
    """One of them: its address, and how to ask it."""

    def __init__(self, name: str, port: int, path: str, process: subprocess.Popen):
        self.name, self.port, self.path, self.process = name, port, path, process
        self.draw = random.Random(0)
        self.lock = threading.Lock()
        self.portraits = itertools.cycle(range(len(PORTRAITS)))

    def ask(self, connection: http.client.HTTPConnection) -> None:
        """Asks for the next portrait at the next age; raises if that is refused."""
        with self.lock:
            portrait, age = next(self.portraits), self.draw.uniform(1, 99)
        fields = {"age": f"{age:.5f}"} | (
            {"portrait": str(portrait)} if self.path == "/render" else {"composite": "face"}
        )
        # httpx builds the body; it would take more of the machine than half of the service if it also sent it.
        files = {"file": ("portrait.jpg", PORTRAITS[portrait])}
        request = httpx.Request("POST", f"http://127.0.0.1:{self.port}{self.path}", data=fields, files=files)
        connection.request("POST", self.path, request.read(), dict(request.headers))
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200 or not content.startswith(b"\x89PNG"):
            raise RuntimeError(f"{self.name} answered {answer.status}: {content[:200]!r}")

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def wait(self) -> None:
        """Returns when every portrait has been asked for, so that all of them are known."""
        while True:
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name} has stopped")
            try:
                for _ in PORTRAITS:
                    self.ask(self.connection())
            except (OSError, RuntimeError):
                time.sleep(1)
            else:
                return

    def saturate(self, callers: int, seconds: float) -> tuple[float, float]:
        """Returns answers per second, and seconds of CPU each, of callers that ask one question after the other."""

        def call() -> int:
            connection, count = self.connection(), 0
            while time.perf_counter() < until:
                self.ask(connection)
                count += 1
            return count

        started, used = time.perf_counter(), self.cpu()
        until = started + seconds
        with ThreadPoolExecutor(callers) as pool:
            count = sum(future.result() for future in [pool.submit(call) for _ in range(callers)])
        return count / (time.perf_counter() - started), (self.cpu() - used) / count

    def cpu(self) -> float:
        """Returns the seconds of CPU that its processes have used."""
        root = psutil.Process(self.process.pid)
        used = 0.0
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                used += sum(process.cpu_times()[:2])
        return used

    def paced(self, per_second: float, seconds: float) -> list[float]:
        """Asks at random times (Poisson) at a rate, however long answers take; returns the seconds each took."""
        local, draw = threading.local(), random.Random(1)

        def call(due: float) -> float:
            if not hasattr(local, "connection"):
                local.connection = self.connection()
            self.ask(local.connection)
            return time.perf_counter() - due

        def dues() -> Iterator[float]:
            due = time.perf_counter()
            until = due + seconds
            while (due := due + draw.expovariate(per_second)) < until:
                yield due

        with ThreadPoolExecutor(32) as pool:
            futures = []
            for due in dues():
                time.sleep(max(0.0, due - time.perf_counter()))
                futures.append(pool.submit(call, due))
            return [future.result() for future in futures]


def raw(model: Model, draw: random.Random, seconds: float) -> tuple[float, float]:
    """Returns variants per second of the renderer alone, and seconds of CPU each; no age must come twice, as renders
    are remembered."""
    count, started, used = 0, time.perf_counter(), time.process_time()
    for portrait in itertools.cycle(range(len(PORTRAITS))):
        ages = [draw.uniform(1, 99) for _ in range(model.renderer.chunk)]
        count += len(model.renderer.render_groups([model.group(portrait, *ages)])[0])
        if (elapsed := time.perf_counter() - started) > seconds:
            break
    return count / elapsed, (time.process_time() - used) / count


def started(name: str, bundle: str) -> Service:
    """Starts one in a process group of its own."""
    here, port = Path(__file__), free_port()
    if name in (FASTAPI, LITSERVE):
        path, command = "/render", [str(here.with_name("serve_peers.py")), name, bundle, str(port)]
    else:
        path, max_batch = "/v1/renders", str(MAX_BATCH if name == BATCHING else 1)
        command = [str(here), "--bundle", bundle, "--port", str(port), "--max-batch", max_batch]
    return Service(name, port, path, subprocess.Popen([sys.executable, *command], process_group=0))


def turn(service: Service, number: int) -> None:
    """Signals a peer's processes; the processes of ours must not miss their heartbeats."""
    if service.name in (FASTAPI, LITSERVE):
        os.killpg(service.process.pid, number)


@contextlib.contextmanager
def running(names: Iterable[str], bundle: str) -> Iterator[list[Service]]:
    """Starts services one after the other, as Ray gives up on a busy machine, and ends them."""
    services: list[Service] = []
    try:
        for name in names:
            services.append(started(name, bundle))
            services[-1].wait()
            turn(services[-1], signal.SIGSTOP)
        yield services
    finally:
        for service in services:
            turn(service, signal.SIGKILL)
            service.process.terminate()
        for service in services:
            service.process.wait()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=8, help="of each service in each round")
    for name, default in (("callers", 12), ("rounds", 3)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--bundle", default=DEFAULT)
    for name in ("port", "max-batch"):
        arguments.add_argument(f"--{name}", type=int, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.port:
        return serve_ours(options.bundle, options.port, options.max_batch)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    model = Model(options.bundle)
    draw = random.Random(2)
    raw(model, draw, 1)
    measured: dict[str, list[tuple[float, float]]] = {}
    told = ""
    for names in ((BATCHING, FASTAPI, LITSERVE), (SINGLY,)):
        with running(names, options.bundle) as services:
            for _ in range(options.rounds):
                measured.setdefault("raw renderer", []).append(raw(model, draw, options.seconds))
                for service in services:
                    turn(service, signal.SIGCONT)
                    measured.setdefault(service.name, []).append(service.saturate(options.callers, options.seconds))
                    turn(service, signal.SIGSTOP)
                print("  ".join(f"{name} {found[-1][0]:.1f}" for name, found in measured.items()), file=sys.stderr)
            if BATCHING in names:
                half = statistics.median(rate for rate, _ in measured[BATCHING]) / 2
                latencies = services[0].paced(half, 4 * options.seconds)
                told = f"{BATCHING} at half of that ({half:.2f}/s, {len(latencies)} requests): " + ", ".join(
                    f"p{p} {1000 * np.percentile(latencies, p):.0f} ms" for p in (50, 95, 99)
                )
    rates = {name: statistics.median(rate for rate, _ in found) for name, found in measured.items()}
    costs = {name: statistics.median(cost for _, cost in found) for name, found in measured.items()}
    print(f"{'':26}  {'variants/s':>10}  {'of the raw renderer':>20}  {'ms of CPU a variant':>20}")
    for name, rate in rates.items():
        print(f"{name:26}  {rate:>10.2f}  {rate / rates['raw renderer']:>20.2f}  {1000 * costs[name]:>20.0f}")
    print(told)


if __name__ == "__main__":
    main()
