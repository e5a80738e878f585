"""What batch jobs count: while they run, through Ray's exporter; at their end, where Prometheus finds it later."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Gauge, push_to_gateway, write_to_textfile

from capricious.cluster.ray_metrics import counter, gauge, histogram
from capricious.metrics import BATCH

FOLDER = "CAPRICIOUS_METRICS_FOLDER"
"""Environment variable: folder of node_exporter's textfile collector, for finished jobs."""

GATEWAY = "CAPRICIOUS_PUSHGATEWAY"
"""Environment variable: address of a Pushgateway, for finished jobs."""


def stages(kind: str, seconds: Mapping[str, float]) -> None:
    """Counts seconds by stage, of one worker."""
    for stage, value in seconds.items():
        counter("capricious_batch_stage_seconds_total").inc(value, {"kind": kind, "stage": stage})


def shard(kind: str, done: int, failed: int, seconds: float) -> None:
    """Counts one finished shard."""
    for outcome, pictures in (("done", done), ("failed", failed)):
        if pictures:
            counter("capricious_batch_pictures_total").inc(pictures, {"kind": kind, "outcome": outcome})
    histogram("capricious_batch_shard_seconds").observe(seconds, {"kind": kind})


def left(kind: str, pictures: int) -> None:
    """Says how many pictures a running job has before it."""
    gauge("capricious_batch_pictures_left").set(pictures, {"kind": kind})


def ended(kind: str, exit_code: int, seconds: float) -> None:
    """Leaves the end of a job where Prometheus finds it after the process has gone: see FOLDER and GATEWAY.

    What cannot be left there is told on stderr: the job has ended as it has, whoever counts it.
    """
    folder, gateway = os.environ.get(FOLDER), os.environ.get(GATEWAY)
    if not folder and not gateway:
        return
    registry = CollectorRegistry()
    values = {
        "capricious_batch_last_end_timestamp_seconds": time.time(),
        "capricious_batch_last_exit_code": exit_code,
        "capricious_batch_last_duration_seconds": seconds,
    }
    for name, value in values.items():
        Gauge(name, BATCH[name].meaning, BATCH[name].labels, registry=registry).labels(kind=kind).set(value)
    try:
        if folder:
            write_to_textfile(os.path.join(folder, f"capricious-{kind}.prom"), registry)
        if gateway:
            push_to_gateway(gateway, job="capricious", grouping_key={"kind": kind}, registry=registry)
    except OSError as error:
        print(f"warning: the end of this job is not in the metrics: {error}", file=sys.stderr)
