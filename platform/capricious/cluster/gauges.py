"""Metrics of a training run as Ray metrics, which Ray's agents offer to Prometheus on every node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from capricious.cluster.ray_metrics import gauge
from capricious.metrics import of_training


class Gauges:
    """An observer that sets the gauges of capricious.metrics.TRAINING, labelled with the run."""

    def __init__(self, run: str):
        self._run = run

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        for name, labels, value in of_training(metrics):
            gauge(name).set(value, tags={"run": self._run, **labels})
