"""A Ray cluster of several machines, as far as Ray can tell: each node has a network namespace and its own address.

Needs root and iproute2. A node can be killed as a power cut does, cut off from the others, and joined again.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from capricious.cluster.session import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
RAY = str(Path(sys.executable).with_name("ray"))
NETWORK = "10.213.71"
HEAD, PORT, DASHBOARD = f"{NETWORK}.1", 26379, 28265

PATIENCE_SECONDS = 420
"""Ray takes half a minute to miss a node that lost its power, and more than one to give up a cable."""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Node:
    """One Ray node: all its processes are one session's, in one network namespace."""

    def __init__(self, number: int, command: list[str], env: dict[str, str], log: Path, private: tuple[str, ...]):
        self.address, self._name, self._number = f"{NETWORK}.{number}", f"capricious{number}", number
        ip("netns", "add", self._name)
        ip("link", "add", f"cap{number}", "type", "veth", "peer", "name", "eth0", "netns", self._name)
        ip("link", "set", f"cap{number}", "master", "capricious", "up")
        ip("-n", self._name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", self._name, "link", "set", device, "up")
        inside = ["ip", "netns", "exec", self._name]
        if private:  # folders of that name that only this node sees
            mounts = " && ".join(f"mount -t tmpfs tmpfs {folder}" for folder in private)
            inside += ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"]
        command = [*inside, *command, f"--node-ip-address={self.address}"]
        with log.open("ab") as file:
            self._process = subprocess.Popen(command, env=env, stdout=file, stderr=file, start_new_session=True)

    def kill(self) -> None:
        """Ends every process of the node at once."""
        _raze(self._name)
        self._process.wait()

    def pids(self, title: str) -> list[int]:
        """Returns the node's processes in whose command line `title` occurs."""
        return [pid for pid in _pids_in(self._name) if title in _title(pid)]

    def cut(self) -> None:
        """Pulls the cable."""
        ip("link", "set", f"cap{self._number}", "down")

    def mend(self) -> None:
        ip("link", "set", f"cap{self._number}", "up")


def _raze(namespace: str) -> None:
    """Kills all that runs in a namespace, and removes it; its cable goes with it."""
    for pid in _pids_in(namespace):
        os.kill(pid, signal.SIGKILL)
    device = f"cap{namespace.removeprefix('capricious')}"
    for words in (("link", "del", device), ("netns", "del", namespace)):
        subprocess.run(["ip", *words], check=False, capture_output=True)


def _sweep() -> None:
    """Removes all networks of ours, also those that a killed run has left."""
    found = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split()
    for namespace in found:
        if namespace.startswith("capricious"):
            _raze(namespace)
    subprocess.run(["ip", "link", "del", "capricious"], check=False, capture_output=True)


def _pids_in(namespace: str) -> list[int]:
    found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


class Machines:
    """A head without CPUs, and nodes that join it."""

    def __init__(self, folder: Path, **environment: str):
        self.folder, self.log = folder, folder / "ray.log"
        self.env = {
            **os.environ,
            **PATIENCE,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ADDRESS": f"{HEAD}:{PORT}",
            "OMP_NUM_THREADS": "1",
            # A node's name leads to its loopback here, as where /etc/hosts says so; gloo must be told its interface.
            "GLOO_SOCKET_IFNAME": "eth0",
            **environment,
        }
        self.nodes: list[Node] = []
        self._numbers = itertools.count(2)
        self.start_head()

    def start_head(self) -> None:
        """Starts the head, or another one in its place: with the same address, and an empty disk."""
        shutil.rmtree(self.folder / "ray1", ignore_errors=True)
        command = ["--head", f"--port={PORT}", "--num-cpus=0", f"--dashboard-port={DASHBOARD}"]
        self.head = self._start(1, [*command, "--dashboard-host=0.0.0.0"])
        self._wait_for_head()

    def _start(self, number: int, options: list[str], private: tuple[str, ...] = (), **environment: str) -> Node:
        command = [RAY, "start", "--block", "--disable-usage-stats", f"--temp-dir={self.folder}/ray{number}"]
        env = {name: value for name, value in self.env.items() if name != "RAY_ADDRESS"} | environment
        return Node(number, [*command, *options, "--object-store-memory=200000000"], env, self.log, private)

    def _wait_for_head(self) -> None:
        deadline = time.monotonic() + 120
        while self.ask("import ray; ray.init(); print('up')", check=False) != "up":
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(1)

    def add(self, cpus: int = 1, private: tuple[str, ...] = (), **environment: str) -> Node:
        """Lets a node join; returns when the head knows it."""
        options = [f"--address={HEAD}:{PORT}", f"--num-cpus={cpus}"]
        node = self._start(next(self._numbers), options, private, **environment)
        self.nodes.append(node)
        self.wait(lambda: node.address in self.alive(), 180, "the node has not joined")
        return node

    def alive(self) -> dict[str, str]:
        """Ids, by address, of the nodes that the head holds for alive."""
        told = self.ask(
            "import json, ray; ray.init(log_to_driver=False); "  # which tells of work that waits for nodes
            "print(json.dumps({n['NodeManagerAddress']: n['NodeID'] for n in ray.nodes() if n['Alive']}))",
            check=False,
        )
        return json.loads(told) if told else {}

    def ask(self, code: str, check: bool = True) -> str:
        """Runs Python on the head's machine and returns what it prints."""
        done = subprocess.run(self.on_head(sys.executable, "-c", code), env=self.env, capture_output=True, text=True)
        assert done.returncode == 0 or not check, done.stderr[-3000:]
        return done.stdout.strip() if done.returncode == 0 else ""

    def on_head(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", "capricious1", *command]

    def start_job(self, name: str, *arguments: str) -> subprocess.Popen:
        """Starts jobs/NAME on the head's machine."""
        command = self.on_head(sys.executable, str(ROOT / "jobs" / name), *arguments)
        return subprocess.Popen(
            command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
        )

    def drain(self, node: Node, seconds: int) -> None:
        """Announces that a node will be taken back, as the provider of a spot instance does."""
        who = ["--address", f"{HEAD}:{PORT}", "--node-id", self.alive()[node.address]]
        why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        command = [RAY, "drain-node", *who, *why, "--deadline-remaining-seconds", f"{seconds}"]
        subprocess.run(self.on_head(*command), env=self.env, check=True, capture_output=True)

    def kill(self, node: Node) -> None:
        node.kill()
        if node in self.nodes:
            self.nodes.remove(node)

    @staticmethod
    def wait(until: Callable[[], bool], seconds: float, failure: str) -> None:
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, failure
            time.sleep(0.5)

    def stop(self) -> None:
        for node in [*self.nodes, self.head]:
            node.kill()


@contextmanager
def machines(cpus: tuple[int, ...] = (), **environment: str) -> Iterator[Machines]:
    """Yields a cluster with a node for each number of CPUs; skips the test where namespaces cannot be made."""
    try:
        _sweep()
        ip("link", "add", "capricious", "type", "bridge")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"may not make networks here (needs root and iproute2): {error}")
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: paths of sockets have a limit
    cluster = None
    try:
        ip("addr", "add", f"{NETWORK}.254/24", "dev", "capricious")
        ip("link", "set", "capricious", "up")
        cluster = Machines(folder, **environment)
        for count in cpus:
            cluster.add(count)
        yield cluster
    finally:
        if cluster is not None:
            cluster.stop()
        _sweep()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(cluster: Machines, job: subprocess.Popen, until: Callable[[], bool]) -> None:
    """Waits until something holds while a job runs."""

    def or_over() -> bool:
        assert job.poll() is None, job.communicate()[0]
        return until()

    cluster.wait(or_over, PATIENCE_SECONDS, "the job does not get on")


def worker_of(cluster: Machines, title: str) -> Node:
    """Returns the first node on which such a process runs."""
    return next(node for node in cluster.nodes if node.pids(title))


def start_training(
    cluster: Machines, data: str, out: Path, *options: str, kimg: float, checkpoint_kimg: float
) -> subprocess.Popen:
    """Starts jobs/train.py with two workers of one CPU on tiny networks."""
    network = [f"--training.network.{size}=4" for size in ("width", "hidden", "encoder-width", "discriminator-width")]
    losses = [f"--training.loss.{term}=0" for term in ("perceptual", "age", "gender")]
    length = [f"--training.kimg={kimg}", f"--training.checkpoint-kimg={checkpoint_kimg}"]
    run = ["--training.resolution=64", "--training.batch-size=4", "--training.strategy=ddp", "--training.device=cpu"]
    arguments = ["--data", data, "--out", str(out), "--workers", "2", "--cpus-per-worker", "1", "--no-judge", *options]
    return cluster.start_job("train.py", *arguments, *network, *losses, *length, *run)


def finished(job: subprocess.Popen, *codes: int) -> str:
    """Waits for a job that must end with one of these exit codes; returns what it printed."""
    printed, _ = job.communicate(timeout=PATIENCE_SECONDS)
    assert job.returncode in codes, printed
    return printed


def answers(url: str, timeout: float = 10.0) -> int:
    """Returns the status of a GET, or 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
