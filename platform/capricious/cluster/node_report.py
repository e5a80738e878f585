"""What each node of the cluster says of itself when a small task looks there.

The driver's word is not enough: a folder that it can write to may exist on its own machine alone.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from capricious import weights
from capricious.data import storage
from capricious.errors import CapriciousError

PACKAGES = ("ray", "torch", "deepspeed", "capricious")
"""Must have one version everywhere: Ray refuses to connect others, weights and pickled tasks may differ silently."""

PATIENCE_SECONDS = 60.0
"""How long a node may take to answer."""


@dataclass(frozen=True)
class Needs:
    """What a job will want.

    Attributes:
        reads, writes: folders, files or URLs, as the job names them.
        cpus, gpus: of all its workers together.
        weights: names in the weight registry that its workers fetch.
    """

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    cpus: float = 0.0
    gpus: float = 0.0
    weights: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeReport:
    """What one node says of itself.

    Attributes:
        node: its address.
        versions: of Python and PACKAGES; None for a package that it lacks.
        clock: seconds since 1970: by the driver's clock before it asked, by the node's, and by the driver's again
            when the answer came.
        disk: bytes in all and free where Ray spills objects.
        object_store: bytes of the node's object store, which is what may have to be spilled.
        problems: by URI, why it cannot be read or written there.
        lacking: weights that it does not have yet.
        seen: by URI that the job will write to, the nodes whose marks this one sees there.
    """

    node: str
    versions: dict[str, str | None]
    clock: tuple[float, float, float]
    disk: tuple[int, int]
    object_store: float
    problems: dict[str, str]
    lacking: tuple[str, ...]
    seen: dict[str, frozenset[str]]


def versions_here() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None  # the package itself came with the job, or there is no DeepSpeed on a CPU node
    return found


@ray.remote(num_cpus=0, max_retries=0)
def _look(needs: Needs, mark: str) -> dict[str, Any]:
    """Looks at its node, and leaves a mark wherever the job will write."""
    problems = {}
    for uri in needs.reads:
        if reason := _unreadable(uri):
            problems[uri] = reason
    for uri in needs.writes:
        try:
            storage.write_atomic(storage.join(uri, mark), b"")
        except (OSError, CapriciousError) as error:
            problems[uri] = f"cannot be written: {error}"
    local = ray._private.worker.global_worker.node
    assert local is not None  # a task runs in a worker, which has one
    spill = local.get_session_dir_path()
    usage = shutil.disk_usage(spill)
    return {
        "versions": versions_here(),
        "time": time.time(),
        "disk": (usage.total, usage.free),
        "problems": problems,
        "lacking": tuple(name for name in needs.weights if weights.lookup(name) is None),
    }


def _unreadable(uri: str) -> str:
    try:
        return "" if storage.exists(uri) else "is not there"
    except (OSError, CapriciousError) as error:
        return f"cannot be read: {error}"


@ray.remote(num_cpus=0, max_retries=0)
def _see(uris: tuple[str, ...], marks: dict[str, str]) -> dict[str, frozenset[str]]:
    """Returns whose marks this node sees, by URI."""
    seen = {}
    for uri in uris:
        try:
            seen[uri] = frozenset(node for node, mark in marks.items() if storage.exists(storage.join(uri, mark)))
        except (OSError, CapriciousError):
            seen[uri] = frozenset()
    return seen


@ray.remote(num_cpus=0, max_retries=0)
def _wipe(uris: tuple[str, ...], mark: str) -> None:
    for uri in uris:
        try:
            storage.remove(storage.join(uri, mark))
        except (OSError, CapriciousError):
            continue  # it could not be written either, which is reported


def ask_nodes(needs: Needs) -> list[NodeReport]:
    """Asks every living node. URIs of `needs` mean the same everywhere: paths are absolute.

    Raises:
        CapriciousError: a node does not answer, or could not look.
    """
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    names = _names(nodes)
    mark = f".preflight-{uuid4().hex[:8]}-"
    before = time.time()
    looks = _on_each(names, lambda node: _look.options(**_there(node)).remote(needs, mark + node))
    try:
        marks = {node: mark + node for node in nodes}
        sights = _on_each(names, lambda node: _see.options(**_there(node)).remote(needs.writes, marks))
    finally:
        _on_each(names, lambda node: _wipe.options(**_there(node)).remote(needs.writes, mark + node))
    return [
        NodeReport(
            node=names[node],
            versions=look["versions"],
            clock=(before, look["time"], after),
            disk=look["disk"],
            object_store=nodes[node]["Resources"].get("object_store_memory", 0.0),
            problems=look["problems"],
            lacking=look["lacking"],
            seen={uri: frozenset(names[other] for other in seen) for uri, seen in sights[node][0].items()},
        )
        for node, (look, after) in looks.items()
        if node in sights
    ]


def _names(nodes: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Names each node by its address, and by its id, too, where two share a machine."""
    addresses = {node: str(entry["NodeManagerAddress"]) for node, entry in nodes.items()}
    count = Counter(addresses.values())
    return {node: name if count[name] == 1 else f"{name}/{node[:6]}" for node, name in addresses.items()}


def _there(node: str) -> dict[str, Any]:
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def _on_each(names: dict[str, str], ask: Callable[[str], ray.ObjectRef[Any]]) -> dict[str, tuple[Any, float]]:
    """Returns each node's answer, and the driver's time when it came.

    A node that is lost while it is asked is left out: the job will go on without it, too.
    """
    asked = {node: ask(node) for node in names}
    answers = {}
    for node, answer in asked.items():
        try:
            answers[node] = ray.get(answer, timeout=PATIENCE_SECONDS), time.time()
        except ray.exceptions.RayTaskError as error:  # it has answered
            cause = error.cause
            raise CapriciousError(f"node {names[node]} cannot look: {type(cause).__name__}: {cause}") from error
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayError) as error:
            if node not in {entry["NodeID"] for entry in ray.nodes() if entry["Alive"]}:
                continue
            raise CapriciousError(
                f"node {names[node]} does not answer ({type(error).__name__}): can it reach what the job reads and "
                "writes? Else see `ray status` and that node's raylet.out; restart it or remove it from the cluster"
            ) from error
    return answers
