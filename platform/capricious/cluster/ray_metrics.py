"""The metrics of capricious.metrics as Ray's own, each made once in a process, when it is first used."""

from __future__ import annotations

from functools import cache

from ray.util.metrics import Counter, Gauge, Histogram

from capricious.metrics import METRICS


@cache
def counter(name: str) -> Counter:
    """Returns the counter of that name."""
    return Counter(name, METRICS[name].meaning, METRICS[name].labels)


@cache
def gauge(name: str) -> Gauge:
    """Returns the gauge of that name."""
    return Gauge(name, METRICS[name].meaning, METRICS[name].labels)


@cache
def histogram(name: str) -> Histogram:
    """Returns the histogram of that name."""
    return Histogram(name, METRICS[name].meaning, list(METRICS[name].buckets), METRICS[name].labels)
