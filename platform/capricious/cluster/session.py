"""Connecting to Ray: a cluster where there is one, else this machine."""

from __future__ import annotations

import logging
import os
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


def require_cpus(needed: float, purpose: str) -> None:
    """Refuses what would wait forever in silence because the cluster has too few CPUs.

    Raises:
        CapriciousError: says how many CPUs there are and what to lower.
    """
    available = ray.cluster_resources().get("CPU", 0)
    if needed > available:
        raise CapriciousError(
            f"{purpose} needs {needed:g} CPUs, the cluster has {available:g}; lower the number of workers or add nodes"
        )


def cpu_count() -> int:
    """Number of CPUs that the connected cluster offers."""
    return int(ray.cluster_resources().get("CPU", 0))
