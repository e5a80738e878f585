"""What the service counts (capricious.metrics.SERVE), by Ray's own exporter, on every node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from capricious.cluster.ray_metrics import counter, gauge, histogram


def request(route: str, status: int, seconds: float) -> None:
    """One answered request; `seconds` until its last byte."""
    counter("capricious_serve_requests_total").inc(1, {"route": route, "status": str(status)})
    histogram("capricious_serve_request_seconds").observe(seconds, {"route": route})


def requests_in_hand(count: int) -> None:
    """Requests that this ingress is working on."""
    gauge("capricious_serve_requests_in_hand").set(count)


def rejected(reason: str) -> None:
    """One problem."""
    counter("capricious_serve_rejected_total").inc(1, {"reason": reason})


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Times a stage: decode, annotate, render (a batch), compose (files from renders)."""
    started = time.perf_counter()
    try:
        yield
    finally:
        histogram("capricious_serve_stage_seconds").observe(time.perf_counter() - started, {"stage": name})


def batch(groups: int, variants: int, waiting: int) -> None:
    """One batch of the model, and how many groups were waiting in the replica when it began."""
    histogram("capricious_serve_batch_groups").observe(groups)
    histogram("capricious_serve_batch_variants").observe(variants)
    counter("capricious_serve_variants_total").inc(variants)
    gauge("capricious_serve_queue_groups").set(waiting)


def lookup(cache_name: str, hit: bool) -> None:
    """One look into a cache."""
    counter("capricious_serve_cache_lookups_total").inc(1, {"cache": cache_name, "outcome": "hit" if hit else "miss"})
