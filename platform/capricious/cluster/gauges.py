"""Metrics of a training run as Ray metrics, which Ray's agents offer to Prometheus on every node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Gauge

from capricious.training.observers import gauge_name


class Gauges:
    """An observer that sets a gauge for each metric, labelled with the run."""

    def __init__(self, run: str):
        self._run = run
        self._gauges: dict[str, Gauge] = {}

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        for name, value in metrics.items():
            if name not in self._gauges:
                self._gauges[name] = Gauge(gauge_name(name), description=f"Training: {name}", tag_keys=("run",))
            self._gauges[name].set(value, tags={"run": self._run})
