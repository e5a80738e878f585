"""The application that Ray Serve's command line builds:

    serve run serve.app:portrait [bundle=PATH]

from the root of the repository. `serve/config.yaml` is the same for `serve deploy`.
"""

# No `from __future__ import annotations`: Ray Serve reads the type of portrait()'s arguments from its signature,
# and with it would find a string and pass a plain dict.

import logging
import os

from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from capricious.data import storage
from serve.arguments import PortraitArguments
from serve.deployments import Annotating, Ingress, Rendering
from serve.gates import tokens_from_environment
from serve.proxy import ASKS_AGAIN

log = logging.getLogger("ray.serve")

ONE_LOOP = {
    "env_vars": {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
}
"""Runtime environment of the replicas: our code shares Ray's event loop, which nothing in it holds up, as the work is
done in threads of its own. Every request is spared two hand-overs between loops, a tenth of its CPU."""

OF_A_RAY_OF_OUR_OWN = {
    **ASKS_AGAIN,
    # Ray's own intervals of 0.1 s take a twentieth of a core from an idle laptop, and from a busy one, too.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "2000",
}
"""Environment of a Ray that is started after this module was imported, as `serve run` and `capricious serve` do."""

for name, value in OF_A_RAY_OF_OUR_OWN.items():
    os.environ.setdefault(name, value)


def portrait(arguments: PortraitArguments) -> serve.Application:
    """Wires the three deployments: Ingress (HTTP) → Annotating (finds faces) and Rendering (the model).

    They scale apart: annotating takes CPUs, rendering GPUs where there are any.
    """
    # Replicas have another working directory.
    arguments = arguments.model_copy(update={"bundle": storage.absolute(arguments.bundle)})
    tokens = tokens_from_environment()
    if not tokens:
        log.warning("CAPRICIOUS_TOKENS is not set: whoever reaches this service may use it")
    annotating = serve.deployment(
        Annotating,
        autoscaling_config=_between(arguments.annotating_replicas, arguments.annotating_max_replicas),
        # One picture at a time; the others of these are on their way, or wait in the replica.
        max_ongoing_requests=4,
        max_queued_requests=arguments.max_queued,
        graceful_shutdown_timeout_s=arguments.timeout_s,
        ray_actor_options={"num_cpus": 1, "runtime_env": ONE_LOOP},
    )
    rendering = serve.deployment(
        Rendering,
        autoscaling_config=_between(arguments.replicas, arguments.max_replicas),
        # One batch is rendered while the next one gathers.
        max_ongoing_requests=2 * arguments.max_batch,
        max_queued_requests=arguments.max_queued,
        graceful_shutdown_timeout_s=arguments.timeout_s,
        ray_actor_options={
            "num_cpus": arguments.threads,
            "num_gpus": int(arguments.device == "cuda"),
            "runtime_env": ONE_LOOP,
        },
    )
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="Ingress",
        num_replicas=arguments.ingress_replicas,
        # Far above what the other two take on, so that overload is answered by a problem that says so.
        max_ongoing_requests=arguments.max_ongoing,
        max_queued_requests=2 * arguments.max_ongoing,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=arguments.retry_after_s),
        graceful_shutdown_timeout_s=arguments.timeout_s,
        # It waits for others most of the time; a laptop of two cores has none to reserve for that.
        ray_actor_options={"num_cpus": 0, "runtime_env": ONE_LOOP},
    )
    return ingress.bind(arguments, tokens, annotating.bind(arguments), rendering.bind(arguments))


def _between(least: int, most: int) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=least,
        max_replicas=max(least, most),
        # Two in hand keep a replica busy. More only wait, and waiting is what a further replica is for.
        target_ongoing_requests=2,
    )
