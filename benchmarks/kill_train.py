"""Kill a training on several Ray nodes at random moments, and compare its weights with those of an undisturbed one.

    python benchmarks/kill_train.py --kills 6

Ray nodes are started on this machine (a head without CPUs, and a node of one CPU for each worker and one to spare);
`jobs/train.py` spreads its workers over them. In turn one of these is killed with SIGKILL: a worker, the driver, a
node with the worker on it (another node then joins). A driver that is gone is started again by the same command.
Networks are tiny and portraits made up: what is tested is whether anything gets lost, not what is learnt.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from itertools import cycle
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
os.environ |= {"RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1", "RAY_raylet_start_wait_time_s": "180"}
os.environ |= {"RAY_agent_register_timeout_ms": "180000", "RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}
os.environ |= {"RAY_worker_niceness": "0"}  # Ray would let everything else on this machine go first

TINY = ["--training.network.width=4", "--training.network.hidden=4", "--training.network.latent=8"]
TINY += ["--training.network.encoder-width=4", "--training.network.discriminator-width=4"]
TINY += ["--training.network.scales=1", "--training.resolution=64", "--training.batch-size=4"]
TINY += ["--training.loss.perceptual=0", "--training.loss.age=0", "--training.loss.gender=0"]
TINY += ["--training.device=cpu", "--training.recalibrate-batches=1", "--training.log-every=5"]


class Nodes:
    """Ray nodes on this machine."""

    def __init__(self, workers: int):
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "dashboard_port": 8391}
        )
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(workers + 1)]

    def processes(self, node) -> list[psutil.Process]:
        """The training workers on a node."""
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        return [p for p in raylet.children(recursive=True) if "RayTrainWorker" in _title(p)]

    def workers(self) -> list[psutil.Process]:
        return [process for node in self.nodes for process in self.processes(node)]

    def kill_one(self, draw: random.Random) -> str:
        """Kills a node that trains, workers and all; another one joins."""
        node = draw.choice([node for node in self.nodes if self.processes(node)])
        gone = len(self.processes(node))
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)
        self.nodes.append(self.cluster.add_node(num_cpus=1))
        return f"node with {gone} worker"


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def start(options, data: str, out: Path, address: str, log) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "--data", data, "--out", str(out), *TINY]
    command += ["--workers", str(options.workers), "--cpus-per-worker=1", "--max-failures=20"]
    command += [f"--training.strategy={options.strategy}", f"--training.zero-stage={options.zero_stage}"]
    command += [f"--training.kimg={options.kimg}", f"--training.checkpoint-kimg={options.kimg / 25}"]
    return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"RAY_ADDRESS": address})


def images_seen(out: Path) -> int:
    """How far the newest complete checkpoint is."""
    states = sorted((out / "checkpoints").glob("images-*/state.json"))
    return json.loads(states[-1].read_text())["images_seen"] if states else 0


def disturb(options, nodes: Nodes, data: str, out: Path, log) -> int:
    """Runs until done, killing on the way whenever a new checkpoint is there; returns the number of kills."""
    draw, kinds, kills = random.Random(options.seed), cycle(("worker", "driver", "node")), 0
    began = time.monotonic()
    driver = start(options, data, out, nodes.cluster.address, log)
    seen = 0
    while True:
        time.sleep(draw.uniform(0.2, 1.0))
        if (code := driver.poll()) is not None:
            if code == 0:
                return kills
            print(f"| {time.monotonic() - began:.0f} | the driver ended with code {code}: again | |", flush=True)
            driver = start(options, data, out, nodes.cluster.address, log)
        if kills == options.kills or images_seen(out) <= seen or not (workers := nodes.workers()):
            continue
        time.sleep(draw.uniform(0.0, 2.0))
        kind, seen = next(kinds), images_seen(out)
        if kind == "worker":
            victim = draw.choice(workers)
            if not victim.is_running():
                continue
            victim.send_signal(signal.SIGKILL)
        elif kind == "driver":
            driver.kill()
            driver.wait()
        else:
            kind = nodes.kill_one(draw)
        kills += 1
        print(f"| {time.monotonic() - began:.0f} | {kind} | {seen} |", flush=True)
        if kind == "driver":
            driver = start(options, data, out, nodes.cluster.address, log)


def digest(out: Path) -> str:
    """Hash of all tensors of the newest checkpoint (weights, optimizers, EMA) and of the bundle."""
    newest = sorted((out / "checkpoints").glob("images-*"))[-1]
    content = hashlib.sha256()
    for file in [*sorted(newest.rglob("*.safetensors")), *sorted((out / "bundle").glob("*.safetensors"))]:
        content.update(file.read_bytes())
    return content.hexdigest()


def main() -> None:
    arguments = ArgumentParser(description=__doc__)
    arguments.add_argument("--kills", type=int, default=6)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--kimg", type=float, default=0.4)
    arguments.add_argument("--strategy", choices=("ddp", "deepspeed"), default="ddp")
    arguments.add_argument("--zero-stage", type=int, default=2)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--log", default=None, help="file for what the drivers say")
    options = arguments.parse_args()
    from training_tools import write_dataset

    folder = Path(tempfile.mkdtemp(prefix="kill-"))
    os.environ["RAY_TMPDIR"] = str(folder)
    nodes = None
    try:
        data = write_dataset(folder / "data", count=50)
        with open(options.log or folder / "log", "w") as log:
            nodes = Nodes(options.workers)
            began = time.monotonic()
            code = start(options, data, folder / "calm", nodes.cluster.address, log).wait()
            print(f"undisturbed: exit code {code} after {time.monotonic() - began:.0f} s\n", flush=True)
            began = time.monotonic()
            print("| s | killed | images seen by the newest checkpoint |\n|---|---|---|", flush=True)
            kills = disturb(options, nodes, data, folder / "disturbed", log)
            print(f"\ndisturbed: {kills} kills, done after {time.monotonic() - began:.0f} s")
        calm, disturbed = digest(folder / "calm"), digest(folder / "disturbed")
        print(f"sha256 of all weights and optimizers: {calm[:16]} and {disturbed[:16]}; same: {calm == disturbed}")
    finally:
        if nodes is not None:
            nodes.cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
