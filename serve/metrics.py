"""What the service counts (capricious.metrics.SERVE), by Ray's own exporter, on every node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from ray.util.metrics import Counter, Gauge, Histogram

from capricious.metrics import SERVE


# Made when first used, because the process that only builds the application has nothing to count.
@cache
def _counter(name: str) -> Counter:
    name = f"capricious_serve_{name}"
    return Counter(name, SERVE[name].meaning, SERVE[name].labels)


@cache
def _histogram(name: str) -> Histogram:
    name = f"capricious_serve_{name}"
    return Histogram(name, SERVE[name].meaning, list(SERVE[name].buckets), SERVE[name].labels)


@cache
def _gauge(name: str) -> Gauge:
    name = f"capricious_serve_{name}"
    return Gauge(name, SERVE[name].meaning, SERVE[name].labels)


def request(route: str, status: int, seconds: float) -> None:
    """One answered request; `seconds` until its last byte."""
    _counter("requests_total").inc(1, {"route": route, "status": str(status)})
    _histogram("request_seconds").observe(seconds, {"route": route})


def requests_in_hand(count: int) -> None:
    """Requests that this ingress is working on."""
    _gauge("requests_in_hand").set(count)


def rejected(reason: str) -> None:
    """One problem."""
    _counter("rejected_total").inc(1, {"reason": reason})


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Times a stage: decode, annotate, render (a batch), compose (files from renders)."""
    started = time.perf_counter()
    try:
        yield
    finally:
        _histogram("stage_seconds").observe(time.perf_counter() - started, {"stage": name})


def batch(groups: int, variants: int, waiting: int) -> None:
    """One batch of the model, and how many groups were waiting in the replica when it began."""
    _histogram("batch_groups").observe(groups)
    _histogram("batch_variants").observe(variants)
    _counter("variants_total").inc(variants)
    _gauge("queue_groups").set(waiting)


def lookup(cache_name: str, hit: bool) -> None:
    """One look into a cache."""
    _counter("cache_lookups_total").inc(1, {"cache": cache_name, "outcome": "hit" if hit else "miss"})
