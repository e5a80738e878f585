"""Connecting to Ray: a cluster where there is one, else this machine."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

import capricious
from capricious.data.collections.web import ALLOWED_HOSTS
from capricious.errors import CapriciousError

PATIENCE = {"RAY_raylet_start_wait_time_s": "180", "RAY_agent_register_timeout_ms": "180000"}
"""On a busy laptop the parts of a local Ray take longer to come up than the half minute that Ray grants them."""


LOG = "CAPRICIOUS_LOG"
"""Environment variable: "text", or "json" for one JSON object a line, in the driver and in all workers."""

SHIPPED = ("CAPRICIOUS_WEIGHTS", "CAPRICIOUS_CACHE", "CAPRICIOUS_PERMISSIVE_ONLY", ALLOWED_HOSTS)
"""Environment variables that workers read. No others travel: Ray shows what does in its dashboard and state API, and
CAPRICIOUS_TOKENS holds secrets."""


@contextmanager
def session(address: str | None = None) -> Iterator[None]:
    """Connects to Ray for the duration of a ``with`` block; leaves a connection that is already there alone.

    Args:
        address: of a cluster. Default: RAY_ADDRESS (which `ray job submit` sets), else a Ray of this machine's
            own, started now and stopped at the end. Never "whatever is running": a stale address file would
            make Ray wait for minutes for a cluster that is gone.

    Raises:
        CapriciousError: no cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        # It would explain how to switch off the token that guards this Ray from the machine's other users.
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    else:
        # It would warn of the bundle that ships, which is large, and has to travel with the code.
        logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.ERROR)
    try:
        ray.init(
            address=address,
            runtime_env=_runtime_env(local=address == "local"),
            logging_level=logging.WARNING,
            logging_config=_logging_config(),
        )
    except ConnectionError as error:
        raise CapriciousError(
            f"no Ray cluster answers at {address}: {error}; correct RAY_ADDRESS, or unset it to work on this machine"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _logging_config() -> ray.LoggingConfig | None:
    """As LOG asks: None for the usual lines, or one JSON object a line with the ids of job, node, worker and actor."""
    asked = os.environ.get(LOG, "text")
    if asked not in ("text", "json"):
        raise CapriciousError(f"{LOG} must be text or json, found: {asked}")
    return ray.LoggingConfig(encoding="JSON", additional_log_standard_attrs=["name"]) if asked == "json" else None


def _runtime_env(local: bool) -> dict[str, object]:
    """Ships this very code to the workers: `--working-dir .` alone does not put `platform/` on their path."""
    package = Path(capricious.__file__).parent
    settings = {name: os.environ[name] for name in SHIPPED if name in os.environ}
    if local:
        # Prepended, not replaced: what the user has put on the path is meant for the workers, too.
        path = os.pathsep.join(filter(None, [str(package.parent), os.environ.get("PYTHONPATH")]))
        return {"env_vars": {**settings, "PYTHONPATH": path}}
    return {"py_modules": [str(package)], "env_vars": settings}


def worker_count(asked: int, what: str, *, gpus: bool = False, flag: str = "--workers") -> int:
    """Returns how many workers share a job: so many as were asked for, else one for each CPU, or each GPU, of now.

    Args:
        asked: by the configuration; 0 for nothing.
        what: the job does, for messages.
        gpus: each worker has a GPU.
        flag: sets `asked`.

    Raises:
        CapriciousError: nothing was asked for and the cluster is empty, or as require() does.
    """
    there = ray.cluster_resources()
    names = ("CPU", "GPU") if gpus else ("CPU",)
    workers = asked or int(min(there.get(name, 0) for name in names))
    if not workers:
        raise CapriciousError(
            f"the cluster has no {names[-1]}s now, so one worker for each would be none; "
            f"say how many with {flag}, and a cluster that grows with its work will grow"
        )
    require({name: workers for name in names}, f"{what} with {workers} workers")
    return workers


def require(needed: dict[str, float], purpose: str) -> None:
    """Refuses what this machine has too few CPUs or GPUs for; says what a cluster lacks, which may grow.

    A pool that starts empty only grows when something asks for what it has, and what asks are the workers that
    wait. They ask for as long as the job lives, and not a moment longer, however it ends.

    Args:
        needed: "CPU" and "GPU" of all workers together.
        purpose: of them, for messages.

    Raises:
        CapriciousError: Ray is this machine's own, which nobody enlarges; says what there is and what to lower.
    """
    there = ray.cluster_resources()
    wanted = {name: number for name, number in needed.items() if number > there.get(name, 0)}
    if not wanted:
        return
    needs = " and ".join(f"{number:g} {name}s" for name, number in wanted.items())
    has = " and ".join(f"{there.get(name, 0):g}" for name in wanted)
    if _is_this_machines_own():
        raise CapriciousError(f"{purpose} needs {needs}, this machine has {has}; lower the number of workers")
    print(
        f"{purpose} needs {needs}, the cluster has {has}: those without wait for nodes that join (see: ray status)",
        file=sys.stderr,
    )


def _is_this_machines_own() -> bool:
    """Says whether Ray was started by this very process: then there is no cluster that could grow."""
    node = ray._private.worker.global_worker.node
    return node is not None and bool(node.is_head())


def cpu_count() -> int:
    """Number of CPUs that the connected cluster offers."""
    return int(ray.cluster_resources().get("CPU", 0))
