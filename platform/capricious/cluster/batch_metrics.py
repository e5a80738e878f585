"""What batch jobs count: while they run, through Ray's exporter; at their end, where Prometheus finds it later."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import cache

from prometheus_client import CollectorRegistry, push_to_gateway, write_to_textfile
from prometheus_client import Gauge as PlainGauge
from ray.util.metrics import Counter, Gauge, Histogram

from capricious.metrics import BATCH

FOLDER = "CAPRICIOUS_METRICS_FOLDER"
"""Environment variable: folder of node_exporter's textfile collector, for finished jobs."""

GATEWAY = "CAPRICIOUS_PUSHGATEWAY"
"""Environment variable: address of a Pushgateway, for finished jobs."""


@cache
def _counter(name: str) -> Counter:
    return Counter(name, BATCH[name].meaning, BATCH[name].labels)


@cache
def _histogram(name: str) -> Histogram:
    return Histogram(name, BATCH[name].meaning, list(BATCH[name].buckets), BATCH[name].labels)


@cache
def _gauge(name: str) -> Gauge:
    return Gauge(name, BATCH[name].meaning, BATCH[name].labels)


def stages(kind: str, seconds: Mapping[str, float]) -> None:
    """Counts seconds by stage, of one worker."""
    for stage, value in seconds.items():
        _counter("capricious_batch_stage_seconds_total").inc(value, {"kind": kind, "stage": stage})


def shard(kind: str, done: int, failed: int, seconds: float) -> None:
    """Counts one finished shard."""
    for outcome, pictures in (("done", done), ("failed", failed)):
        if pictures:
            _counter("capricious_batch_pictures_total").inc(pictures, {"kind": kind, "outcome": outcome})
    _histogram("capricious_batch_shard_seconds").observe(seconds, {"kind": kind})


def left(kind: str, pictures: int) -> None:
    """Says how many pictures a running job has before it."""
    _gauge("capricious_batch_pictures_left").set(pictures, {"kind": kind})


def ended(kind: str, exit_code: int, seconds: float) -> None:
    """Leaves the end of a job where Prometheus finds it after the process has gone: see FOLDER and GATEWAY."""
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
        PlainGauge(name, BATCH[name].meaning, BATCH[name].labels, registry=registry).labels(kind=kind).set(value)
    if folder:
        write_to_textfile(os.path.join(folder, f"capricious-{kind}.prom"), registry)
    if gateway:
        push_to_gateway(gateway, job="capricious", grouping_key={"kind": kind}, registry=registry)
