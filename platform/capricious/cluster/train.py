"""Train on Ray: the same loop as in one process, in the workers of a Ray Train TorchTrainer."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from capricious.cluster.session import cpu_count
from capricious.cluster.torch_workers import report, run_torch_workers
from capricious.data import storage
from capricious.data.prepared import PreparedDataset
from capricious.errors import ConfigError
from capricious.training.config import TrainingConfig
from capricious.training.loop import train


@dataclass(frozen=True)
class TrainConfig:
    """What to train on, where, and with how many workers."""

    data: str
    """Prepared dataset: a folder or s3:// address that every node can read."""
    out: str
    """Folder of checkpoints, sample grids and the bundle, the same on every node (one machine, or a shared
    file system). The same command again resumes."""
    workers: int = 1
    """Training processes; more than one needs --training.strategy ddp or deepspeed."""
    cpus_per_worker: int = 0
    """CPUs of each worker; 0 shares the cluster's CPUs evenly."""
    gpus: bool = False
    """Give each worker one GPU."""
    max_failures: int = 3
    """Restart the workers from the newest checkpoint after so many failures, then give up."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How to train."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"workers must be at least 1, found: {self.workers}")
        if self.workers > 1 and self.training.strategy == "plain":
            raise ConfigError(
                f"{self.workers} workers need --training.strategy ddp or deepspeed: with plain, each would train "
                "a model of its own"
            )
        if "://" in self.out:
            raise ConfigError(f"out must be a folder that all nodes share, found: {self.out}")


def run_training(config: TrainConfig) -> dict[str, Any]:
    """Trains on the connected Ray cluster and returns the last metrics of the first worker.

    Raises:
        CapriciousError: no usable data, too few CPUs, or the training failed more than `max_failures` times.
    """
    data, out = storage.absolute(config.data), storage.absolute(config.out)
    PreparedDataset(data, "train")  # an unusable dataset is told here, in one line, and not by a worker
    cpus = config.cpus_per_worker or max(1, cpu_count() // config.workers)
    return run_torch_workers(
        _train_on_worker,
        {"training": config.training, "data": data, "out": out},
        out=out,
        workers=config.workers,
        cpus=cpus,
        gpus=config.gpus,
        max_failures=config.max_failures,
    )


def _train_on_worker(settings: dict[str, Any]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    train(settings["training"], data=settings["data"], out=settings["out"], report=report)
