"""The name of every metric that Capricious exports, with its meaning. Nothing else may be counted.

Names follow Prometheus: base units in the name, counters end in _total. Inside Ray they go through `ray.util.metrics`,
and each node's agent shows them with "ray_" in front; a plain process and a finished job use prometheus-client, and
there they have no prefix. infra/prometheus and infra/grafana are tested against this list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
LONG_SECONDS = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


@dataclass(frozen=True)
class Metric:
    """What a metric is.

    Attributes:
        kind: "counter", "gauge" or "histogram".
        meaning: one sentence.
        labels: what its values are told apart by.
        buckets: upper bounds of a histogram.
    """

    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


BATCH = {
    "capricious_batch_pictures_total": Metric("counter", "Pictures that a job has dealt with.", ("kind", "outcome")),
    "capricious_batch_stage_seconds_total": Metric("counter", "Seconds of workers by stage.", ("kind", "stage")),
    "capricious_batch_shard_seconds": Metric("histogram", "Seconds that a shard took.", ("kind",), LONG_SECONDS),
    "capricious_batch_pictures_left": Metric("gauge", "Pictures that a running job has before it.", ("kind",)),
    "capricious_batch_last_end_timestamp_seconds": Metric("gauge", "When a job ended, successful or not.", ("kind",)),
    "capricious_batch_last_exit_code": Metric("gauge", "Exit code of the job that ended last.", ("kind",)),
    "capricious_batch_last_duration_seconds": Metric("gauge", "How long the last job took.", ("kind",)),
}

TRAINING = {
    "capricious_training_images": Metric("gauge", "Pictures that the run has been trained on.", ("run",)),
    "capricious_training_images_per_second": Metric("gauge", "Pictures a second, of all processes.", ("run",)),
    "capricious_training_remaining_seconds": Metric("gauge", "Time to the end at this rate.", ("run",)),
    "capricious_training_data_wait_ratio": Metric("gauge", "Share of the time that waits for pictures.", ("run",)),
    "capricious_training_gpu_memory_bytes": Metric("gauge", "Most GPU memory in use so far.", ("run",)),
    "capricious_training_margin": Metric("gauge", "What the discriminator tells real from fake by.", ("run",)),
    "capricious_training_augment_ratio": Metric("gauge", "Probability of each augmentation of the pairs.", ("run",)),
    "capricious_training_logits": Metric("gauge", "The discriminator's mean logits.", ("run", "name")),
    "capricious_training_loss": Metric("gauge", "Each loss, unweighted.", ("run", "name")),
    "capricious_training_loss_share_ratio": Metric("gauge", "Each loss's part of the generator's.", ("run", "name")),
    "capricious_training_score": Metric("gauge", "Scores of the newest checkpoint.", ("run", "name")),
}

SERVE = {
    "capricious_serve_requests_total": Metric("counter", "Requests answered.", ("route", "status")),
    "capricious_serve_request_seconds": Metric("histogram", "From request to last byte.", ("route",), SECONDS),
    "capricious_serve_requests_in_hand": Metric("gauge", "Requests that an ingress is working on."),
    "capricious_serve_rejected_total": Metric("counter", "Requests that ended as a problem.", ("reason",)),
    "capricious_serve_stage_seconds": Metric("histogram", "Seconds by stage.", ("stage",), SECONDS),
    "capricious_serve_batch_groups": Metric("histogram", "Groups of variants in a batch.", (), COUNTS),
    "capricious_serve_batch_variants": Metric("histogram", "Variants in a batch.", (), COUNTS),
    "capricious_serve_variants_total": Metric("counter", "Variants rendered."),
    "capricious_serve_queue_groups": Metric("gauge", "Groups that wait in a replica of the model."),
    "capricious_serve_cache_lookups_total": Metric("counter", "Looks into a cache.", ("cache", "outcome")),
}

METRICS: Mapping[str, Metric] = {**BATCH, **TRAINING, **SERVE}

_OF_TRAINING = {
    "kimg": ("images", 1000.0),
    "images_per_second": ("images_per_second", 1.0),
    "seconds_left": ("remaining_seconds", 1.0),
    "data_wait": ("data_wait_ratio", 1.0),
    "gpu_memory_gb": ("gpu_memory_bytes", 2.0**30),
    "margin": ("margin", 1.0),
    "augment_probability": ("augment_ratio", 1.0),
}
"""Metrics of a run → metric and factor to base units."""

_UNTOLD = ("minutes", "discriminator_steps")


def of_training(metrics: Mapping[str, Any]) -> list[tuple[str, dict[str, str], float]]:
    """Translates the metrics of a training run (training/observers.py) into names, labels and values."""
    told = []
    for name, value in metrics.items():
        labels: dict[str, str] = {}
        group, _, rest = name.partition("/")
        if name in _UNTOLD:
            continue
        if name in _OF_TRAINING:
            metric, factor = _OF_TRAINING[name]
            value = factor * value
        elif rest and group == "share":
            metric, labels = "loss_share_ratio", {"name": rest}
        elif rest and group == "logits":
            metric, labels = "logits", {"name": rest}
        elif rest:
            metric, labels = "score", {"name": name}
        else:
            metric, labels = "loss", {"name": name}
        told.append((f"capricious_training_{metric}", labels, float(value)))
    return told
