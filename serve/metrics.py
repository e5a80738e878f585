"""What is counted, by Ray's own exporter: each node's agent shows it to Prometheus (as ray_capricious_serve_…)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from ray.util.metrics import Counter, Gauge, Histogram

SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120]
COUNTS = [1, 2, 4, 8, 16, 32, 64, 128]


# Made when first used, because the process that only builds the application has nothing to count.
@cache
def _counter(name: str, description: str, *tags: str) -> Counter:
    return Counter(f"capricious_serve_{name}", description, tags)


@cache
def _histogram(name: str, description: str, boundaries: tuple[float, ...], *tags: str) -> Histogram:
    return Histogram(f"capricious_serve_{name}", description, list(boundaries), tags)


@cache
def _gauge(name: str, description: str) -> Gauge:
    return Gauge(f"capricious_serve_{name}", description)


def request(route: str, status: int, seconds: float) -> None:
    """One answered request; `seconds` until its last byte."""
    _counter("requests_total", "Requests answered.", "route", "status").inc(1, {"route": route, "status": str(status)})
    description = "Seconds from a request to the last byte of its answer."
    _histogram("request_seconds", description, tuple(SECONDS), "route").observe(seconds, {"route": route})


def requests_in_hand(count: int) -> None:
    """Requests that this ingress is working on."""
    _gauge("requests_in_hand", "Requests that an ingress is working on.").set(count)


def rejected(reason: str) -> None:
    """One problem."""
    _counter("rejected_total", "Requests that ended as a problem, by reason.", "reason").inc(1, {"reason": reason})


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Times a stage: decode, annotate, render (a batch), compose (files from renders)."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - started
        _histogram("stage_seconds", "Seconds by stage.", tuple(SECONDS), "stage").observe(seconds, {"stage": name})


def batch(groups: int, variants: int, waiting: int) -> None:
    """One batch of the model, and how many groups were waiting in the replica when it began."""
    _histogram("batch_groups", "Groups of variants in a batch.", tuple(COUNTS)).observe(groups)
    _histogram("batch_variants", "Variants in a batch.", tuple(COUNTS)).observe(variants)
    _counter("variants_total", "Variants rendered.").inc(variants)
    _gauge("queue_groups", "Groups that wait in a replica of the model.").set(waiting)


def lookup(cache_name: str, hit: bool) -> None:
    """One look into a cache."""
    tags = {"cache": cache_name, "outcome": "hit" if hit else "miss"}
    _counter("cache_lookups_total", "Looks into a cache.", "cache", "outcome").inc(1, tags)
