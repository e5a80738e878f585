"""Who is told how a run goes: the log, metrics.jsonl, TensorBoard, Prometheus.

All get the same names and values: "kimg", "images_per_second", "data_wait" (share of the time that a process waits
for its pictures), "margin" (what the discriminator's logits tell real from fake by), "gpu_memory_gb", the losses, and
the scores after a checkpoint.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from capricious.errors import ConfigError
from capricious.metrics import TRAINING, of_training
from capricious.training.progress import clock

log = logging.getLogger(__name__)

Observer = Callable[[Mapping[str, Any]], None]
"""Called by the first process with the metrics of each progress line, and with the scores of each checkpoint."""

IN_FRONT = ("kimg", "images_per_second", "seconds_left", "minutes", "discriminator_steps")


def status_line(metrics: Mapping[str, Any]) -> None:
    """Logs one line: where the run is, how fast, when it will end, and the losses; or the scores of a checkpoint."""
    line = [f"kimg {metrics['kimg']:.2f}"]
    if "seconds_left" in metrics:
        line += [f"{metrics['images_per_second']:.1f} images/s", f"ETA {clock(metrics['seconds_left'])}"]
    line += [
        f"{name} {value:.3g}"
        for name, value in metrics.items()
        if name not in IN_FRONT and not name.startswith("share/")
    ]
    log.info("%s", "  ".join(line))


class MetricsFile:
    """metrics.jsonl: one line for each call. Lines after `kimg` are dropped at the start: they will come again."""

    def __init__(self, path: Path, kimg: float):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["kimg"] <= kimg]
            path.write_text("".join(kept), encoding="utf-8")

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(metrics)) + "\n")


class TensorBoard:
    """Event files for TensorBoard; the step is the number of images seen.

    Args:
        images_seen: events of an earlier process after this one are hidden: they will come again.
    """

    def __init__(self, folder: Path, images_seen: int):
        # Not SummaryWriter, whose queue loses what it holds in a kill.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._summary = Event, Summary
        self._file = EventsWriter(str(folder / "events"))
        self._write(step=images_seen + 1, session_log=SessionLog(status=SessionLog.START))

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        values = [
            self._summary.Value(tag=name if "/" in name else f"training/{name}", simple_value=value)
            for name, value in metrics.items()
        ]
        self._write(step=round(metrics["kimg"] * 1000), summary=self._summary(value=values))

    def _write(self, **content: Any) -> None:
        self._file.write_event(self._event(wall_time=time.time(), **content))
        self._file.flush()


class Prometheus:
    """Gauges under http://…:PORT/metrics (capricious.metrics.TRAINING). Only one server a port and process.

    Args:
        run: the run's address, a label of each gauge.
    """

    def __init__(self, port: int, run: str):
        from prometheus_client import CollectorRegistry, Gauge, start_http_server

        registry = CollectorRegistry()
        self._run = run
        self._gauges = {
            name: Gauge(name, metric.meaning, metric.labels, registry=registry) for name, metric in TRAINING.items()
        }
        self._server, self._thread = start_http_server(port, registry=registry)

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        for name, labels, value in of_training(metrics):
            self._gauges[name].labels(run=self._run, **labels).set(value)

    def close(self) -> None:
        """Gives the port back."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def tensorboard(folder: Path, images_seen: int) -> TensorBoard | None:
    """Returns the writer of event files, or None, saying so, where the library is missing (a bare GPU machine)."""
    if find_spec("tensorboardX") is None:
        log.info("no TensorBoard files: the package tensorboardX is not installed; metrics.jsonl has all numbers")
        return None
    return TensorBoard(folder, images_seen)


def prometheus(port: int | None, run: str) -> Prometheus | None:
    """Returns the Prometheus endpoint if one is asked for.

    Raises:
        ConfigError: the library is missing, or the port is taken.
    """
    if port is None:
        return None
    if find_spec("prometheus_client") is None:
        raise ConfigError("training.prometheus_port needs the package prometheus-client; install it or leave it out")
    try:
        return Prometheus(port, run)
    except OSError as error:
        raise ConfigError(f"training.prometheus_port {port}: {error.strerror}; choose another port") from error
