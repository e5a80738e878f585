"""Half an hour of load on the service while its replicas are killed at random: is a request lost, does memory grow?

    pip install -e '.[dev]'
    python benchmarks/soak_serve.py [--minutes 30] [--load 0.8] [--kill-every 60] [--bundle BUNDLE] [--seed 0]

With the bundle that ships, or another. First it measures what the service can do, then it sends `--load` of that at
random times (Poisson), whatever becomes of the answers: renders, sweeps as JSON lines, annotations of pictures never
seen before, and files that are no pictures. Every `--kill-every` seconds on average a replica (model, annotator
or ingress) gets SIGKILL. Every answer must be what was asked for, or a problem (RFC 9457) that fits. A line a minute
says how many, and the memory of every process of the service.

Exits with 1 if an answer was wrong or missing.
"""

import argparse
import collections
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
import numpy as np
import psutil
import ray
from ray import serve
from serve_tools import free_port
from skimage.data import astronaut

from capricious.cluster.session import PATIENCE
from capricious.faces.image import encode
from serve.app import portrait
from serve.arguments import PortraitArguments

DEPLOYMENTS = ("Rendering", "Annotating", "Ingress")
PROBLEMS = {429, 503, 504}
"""What may be answered instead, under load and with replicas dying."""

Outcome = tuple[str, str, float]
"""Kind of request, what came of it, seconds."""


class Soak:
    """Asks, kills, and keeps the books."""

    def __init__(self, url: str, seed: int):
        self.http = httpx.Client(base_url=url, timeout=150, limits=httpx.Limits(max_connections=64))
        self.draw = random.Random(seed)
        self.outcomes: list[Outcome] = []
        self.wrong: list[str] = []
        self.kills: collections.Counter[str] = collections.Counter()
        self.killed_at: list[float] = []
        self.lock = threading.Lock()

    def request(self) -> tuple[str, str, dict, bytes, int]:
        """Draws a request: kind, path, fields, file, and the status that is right."""
        kind = self.draw.choices(["render", "sweep", "annotation", "rubbish"], [80, 5, 10, 5])[0]
        left, top = self.draw.randrange(40, 100), self.draw.randrange(0, 30)
        seen = encode(astronaut()[:320, 60:380], "jpeg")
        match kind:
            case "render":
                age = f"{self.draw.uniform(1, 99):.2f}"
                return kind, "/v1/renders", {"age": age, "composite": "face"}, seen, 200
            case "sweep":
                return kind, "/v1/sweeps", {"ages": "20:80:20", "format": "ndjson", "composite": "face"}, seen, 200
            case "annotation":
                return kind, "/v1/annotations", {}, encode(astronaut()[top:320, left:380], "jpeg"), 200
        return kind, "/v1/renders", {"age": "40"}, self.draw.randbytes(self.draw.randrange(3000)), 422

    def ask(self, request: tuple[str, str, dict, bytes, int], due: float) -> None:
        """Sends one request and judges the answer."""
        kind, path, fields, file, right = request
        try:
            answer = self.http.post(path, data=fields, files={"file": ("portrait.jpg", file)})
        except httpx.TransportError as error:
            outcome = f"no answer ({type(error).__name__})"
        else:
            outcome = str(answer.status_code)
            if not self._is_right(kind, answer, right):
                with self.lock:
                    self.wrong.append(f"{kind}: {answer.status_code} {answer.headers} {answer.content[-300:]!r}")
        with self.lock:
            self.outcomes.append((kind, outcome, time.monotonic() - due))

    def _is_right(self, kind: str, answer: httpx.Response, right: int) -> bool:
        if answer.status_code != right or right != 200:
            problem = answer.headers.get("content-type") == "application/problem+json"
            known = answer.status_code in PROBLEMS or answer.status_code in (right, 415 if right == 422 else right)
            return problem and known and answer.json()["status"] == answer.status_code
        match kind:
            case "render":
                return answer.content.startswith(b"\x89PNG") and answer.content.rstrip().endswith(b"IEND\xaeB`\x82")
            case "sweep":
                last = json.loads(answer.text.splitlines()[-1])
                return last["kind"] == "done" or (last["kind"] == "problem" and last["problem"]["status"] in PROBLEMS)
        return len(answer.json()["faces"]) == 1

    def load(self, per_second: float, until: float) -> None:
        """Asks at random times at a rate, whatever becomes of it; returns when all is answered."""
        with ThreadPoolExecutor(64) as pool:
            due = time.monotonic()
            futures = []
            while (due := due + self.draw.expovariate(per_second)) < until:
                time.sleep(max(0.0, due - time.monotonic()))
                futures = [future for future in futures if not future.done() or future.result()]
                futures.append(pool.submit(self.ask, self.request(), due))
            for future in futures:
                future.result()

    def saturate(self, seconds: float, callers: int = 8) -> float:
        """Returns answers per second when so many ask one after the other; they are not in the books."""
        until = time.monotonic() + seconds

        def call() -> None:
            while time.monotonic() < until:
                with self.lock:
                    request = self.request()
                self.ask(request, time.monotonic())

        with ThreadPoolExecutor(callers) as pool:
            for future in [pool.submit(call) for _ in range(callers)]:
                future.result()
        count = len(self.outcomes)
        self.outcomes.clear()
        return count / seconds

    def kill(self, mean_seconds: float, until: float) -> None:
        """Kills a replica every so many seconds on average, but the last minute is left to recover in."""
        draw = random.Random(1)
        while (time.monotonic() + (pause := draw.expovariate(1 / mean_seconds))) < until - 60:
            time.sleep(pause)
            deployment = draw.choices(DEPLOYMENTS, [5, 3, 2])[0]
            if pids := replicas(deployment):
                self.killed_at.append(time.monotonic())
                self.kills[deployment] += 1
                os.kill(draw.choice(pids), signal.SIGKILL)


def replicas(deployment: str) -> list[int]:
    """Process ids of a deployment's replicas."""
    return [pid for pid, name in processes().items() if name == deployment]


def processes() -> dict[int, str]:
    """Process id → name, of all processes below this one; replicas by their deployment."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            command = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        deployment = next((d for d in DEPLOYMENTS if f"ServeReplica:soak:{d}" in command), None)
        known = ("ProxyActor", "ServeController", "raylet", "gcs_server")
        found[process.pid] = deployment or next((name for name in known if name in command), "other of Ray")
    return found


def memory() -> dict[str, float]:
    """Megabytes of resident memory by name, summed over the processes of that name."""
    sums: collections.Counter[str] = collections.Counter()
    for pid, name in processes().items():
        try:
            sums[name] += psutil.Process(pid).memory_info().rss / 2**20
        except psutil.NoSuchProcess:
            continue
    return dict(sums)


def report(soak: Soak, samples: list[tuple[float, dict[str, float]]], minutes: float) -> bool:
    """Prints the summary; returns whether all was well."""
    statuses = collections.Counter(f"{kind} {outcome}" for kind, outcome, _ in soak.outcomes)
    print(f"\n{len(soak.outcomes)} requests in {minutes:g} minutes; killed: {dict(soak.kills)}")
    for name, count in sorted(statuses.items()):
        print(f"  {name:45} {count:>7}")
    seconds = [s for kind, outcome, s in soak.outcomes if (kind, outcome) == ("render", "200")]
    print("renders: " + ", ".join(f"p{p} {1000 * np.percentile(seconds, p):.0f} ms" for p in (50, 95, 99)))
    print("memory (MB): median of the second and of the last fifth")
    fifth = max(1, len(samples) // 5)
    for name in sorted({name for _, sample in samples for name in sample}):
        early, late = (
            statistics.median(s.get(name, 0.0) for _, s in part)
            for part in (samples[fifth : 2 * fifth], samples[-fifth:])
        )
        print(f"  {name:20} {early:>8.0f} {late:>8.0f}")
    lost = sum(outcome.startswith("no answer") for _, outcome, _ in soak.outcomes)
    print(f"{lost} connections broke")
    print(f"{len(soak.wrong)} answers were wrong")
    for text in soak.wrong[:10]:
        print(f"  {text}")
    return not soak.wrong and lost == 0


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("minutes", 30.0), ("load", 0.8), ("kill-every", 60.0)):
        arguments.add_argument(f"--{name}", type=float, default=default)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--bundle", default=PortraitArguments().bundle)
    options = arguments.parse_args()
    os.environ.update({"RAY_TMPDIR": tempfile.mkdtemp(prefix="ray-"), **PATIENCE})
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    app = portrait(PortraitArguments(bundle=options.bundle, ingress_replicas=2))
    serve.run(app, name="soak", route_prefix="/soak")
    soak = Soak(f"http://127.0.0.1:{port}/soak", options.seed)
    soak.saturate(5)
    most = soak.saturate(15)
    rate = options.load * most
    print(f"{most:.1f} answers a second at most; the load is {rate:.1f}", flush=True)
    began, until = time.monotonic(), time.monotonic() + 60 * options.minutes
    threads = [
        threading.Thread(target=soak.load, args=(rate, until)),
        threading.Thread(target=soak.kill, args=(options.kill_every, until), daemon=True),
    ]
    for thread in threads:
        thread.start()
    samples = []
    while threads[0].is_alive():
        threads[0].join(min(60, 6 * options.minutes))
        sample = memory()
        samples.append((time.monotonic() - began, sample))
        told = ", ".join(f"{name} {mb:.0f}" for name, mb in sorted(sample.items()))
        good = sum(outcome == "200" for _, outcome, _ in soak.outcomes)
        print(
            f"{samples[-1][0] / 60:5.1f} min: {len(soak.outcomes)} answers, {good} of them 200, "
            f"{sum(soak.kills.values())} killed; MB: {told}",
            flush=True,
        )
    well = report(soak, samples, options.minutes)
    serve.shutdown()
    ray.shutdown()
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
