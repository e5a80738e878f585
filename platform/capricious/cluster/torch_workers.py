"""Training processes on Ray Train: started, restarted after failures, and what they report."""

from __future__ import annotations

import json
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray.data
import ray.train
from ray.train import Checkpoint, DataConfig, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend

from capricious.cluster.session import require
from capricious.data import storage
from capricious.errors import CapriciousError
from capricious.training.stopping import Notice


def run_torch_workers(
    loop: Callable[[dict[str, Any]], None],
    settings: dict[str, Any],
    *,
    out: str,
    workers: int,
    cpus: int,
    gpus: bool,
    max_failures: int,
    min_workers: int | None = None,
    streams: tuple[str, DataConfig, int] | None = None,
    heed_sigterm: bool = False,
) -> dict[str, Any]:
    """Runs `loop(settings)` in each of `workers` processes and returns the last metrics of the first.

    Args:
        out: where Ray keeps its own records, below `ray/`.
        cpus: of each worker.
        gpus: give each worker one GPU.
        max_failures: restart the workers so many times, then give up. Machines that are taken back with notice
            do not count.
        min_workers: go on with fewer workers, down to so many, while the cluster has no room for all.
        streams: name of a dataset, who deals it out to the workers, and how many CPUs that takes for each.
        heed_sigterm: a worker that gets SIGTERM goes on, and `notices` tells its loop.

    Raises:
        CapriciousError: too few CPUs, or the training failed more than `max_failures` times.
    """
    fewest = min_workers or workers
    name, dealer, beside = streams or (None, None, 0)
    between: Any = workers if fewest == workers else (fewest, workers)
    purpose = f"training with {fewest} workers of {cpus} CPUs" + (f" and {beside} more each" if beside else "")
    require({"CPU": (cpus + beside) * fewest, "GPU": gpus * fewest}, purpose)
    trainer = TorchTrainer(
        loop,
        train_loop_config=settings,
        torch_config=HeedingTorchConfig() if heed_sigterm else None,
        scaling_config=ScalingConfig(num_workers=between, use_gpu=gpus, resources_per_worker={"CPU": cpus}),
        run_config=RunConfig(
            name="ray",
            failure_config=FailureConfig(max_failures=max_failures),
            **_storage(out),
        ),
        datasets=None if name is None else {name: ray.data.range(1)},
        dataset_config=dealer,
    )
    try:
        result = trainer.fit()
    except WorkerGroupError as error:
        reasons = sorted({str(reason) for reason in error.worker_failures.values()})
        raise CapriciousError(f"training failed: {'; '.join(reasons)}") from error
    if result.metrics is None:
        raise CapriciousError(f"training ended without a checkpoint; see {out}/ray")
    return result.metrics


def _storage(out: str) -> dict[str, Any]:
    """Lets Ray Train reach an object store as we do: its own way knows fewer of the settings in the environment."""
    if "://" not in out:
        return {"storage_path": out}
    filesystem, path = storage.locate(out)
    return {
        "storage_path": path,
        "storage_filesystem": pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)),
    }


def report(metrics: dict[str, Any], checkpoint: str | Path | None) -> None:
    """Tells Ray Train of a checkpoint. The loop has written it into `out` already, so what Ray keeps is a pointer."""
    with tempfile.TemporaryDirectory() as pointer:
        name = f"checkpoint-{ray.train.get_context().get_world_rank()}.json"
        (Path(pointer) / name).write_text(json.dumps({"checkpoint": str(checkpoint), "kimg": metrics["kimg"]}))
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(pointer))


_sigterm = threading.Event()
"""Set in a worker that has got SIGTERM."""


def notices() -> Notice:
    """What this worker has been told; all workers call it after the same steps, as Ray Train waits for all.

    A node that is drained (its spot instance is taken back, the autoscaler removes it) is a reason to save: Ray Train
    starts the workers elsewhere when it is gone. SIGTERM to a worker is a wish that the run stop.
    """
    drained = ray.train.get_preemption_info() is not None
    if _sigterm.is_set():
        return Notice.STOP
    return Notice.SAVE if drained else Notice.NONE


def _heed_sigterm() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: _sigterm.set())


class HeedingTorchConfig(TorchConfig):
    """Ray Train's torch backend, whose workers survive SIGTERM long enough to save.

    Ray runs the loop beside the main thread, and only that one may handle signals: so it is done from here, where
    Ray Train calls into the main thread of each worker before the loop starts.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _HeedingBackend


class _HeedingBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(_heed_sigterm)
