"""Training processes on Ray Train: started, restarted after failures, and what they report."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer

from capricious.cluster.session import require_cpus
from capricious.errors import CapriciousError


def run_torch_workers(
    loop: Callable[[dict[str, Any]], None],
    settings: dict[str, Any],
    *,
    out: str,
    workers: int,
    cpus: int,
    gpus: bool,
    max_failures: int,
) -> dict[str, Any]:
    """Runs `loop(settings)` in each of `workers` processes and returns the last metrics of the first.

    Args:
        out: where Ray keeps its own records, below `ray/`.
        cpus: of each worker.
        gpus: give each worker one GPU.
        max_failures: restart the workers so many times, then give up.

    Raises:
        CapriciousError: too few CPUs, or the training failed more than `max_failures` times.
    """
    require_cpus(cpus * workers, f"training with {workers} workers of {cpus} CPUs")
    trainer = TorchTrainer(
        loop,
        train_loop_config=settings,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus, resources_per_worker={"CPU": cpus}),
        run_config=RunConfig(name="ray", storage_path=out, failure_config=FailureConfig(max_failures=max_failures)),
    )
    try:
        result = trainer.fit()
    except WorkerGroupError as error:
        reasons = sorted({str(reason) for reason in error.worker_failures.values()})
        raise CapriciousError(f"training failed: {'; '.join(reasons)}") from error
    if result.metrics is None:
        raise CapriciousError(f"training ended without a checkpoint; see {out}/ray")
    return result.metrics


def report(metrics: dict[str, Any], checkpoint: Path | None) -> None:
    """Tells Ray Train of a checkpoint. The loop has written it into `out` already, so what Ray keeps is a pointer."""
    with tempfile.TemporaryDirectory() as pointer:
        name = f"checkpoint-{ray.train.get_context().get_world_rank()}.json"
        (Path(pointer) / name).write_text(json.dumps({"checkpoint": str(checkpoint), "kimg": metrics["kimg"]}))
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(pointer))
