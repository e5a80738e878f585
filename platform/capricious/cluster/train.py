"""Train on Ray: the same loop as in one process, in the workers of a Ray Train TorchTrainer."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import ray.train

from capricious.cluster.decoding import NAME, InOrder, batches_from_ray
from capricious.cluster.gauges import Gauges
from capricious.cluster.session import cpu_count
from capricious.cluster.torch_workers import notices, report, run_torch_workers
from capricious.data import storage
from capricious.errors import CapriciousError, ConfigError
from capricious.evaluate.checkpoint_scorer import CheckpointScorer
from capricious.training.batches import decoded_bytes
from capricious.training.config import TrainingConfig
from capricious.training.datasets import JoinedDatasets
from capricious.training.loop import train
from capricious.training.score import held_out


@dataclass(frozen=True)
class TrainConfig:
    """What to train on, where, and with how many workers."""

    data: tuple[str, ...]
    """Prepared datasets: folders or s3:// addresses that every node can read."""
    out: str
    """Folder of checkpoints, sample grids and the bundle that all nodes share, or an s3:// address. The same command
    again resumes."""
    workers: int = 1
    """Training processes; more than one needs --training.strategy ddp or deepspeed."""
    min_workers: int | None = None
    """Go on with fewer workers, down to so many, while the cluster has no room for all; with strategy ddp."""
    cpus_per_worker: int = 0
    """CPUs of each worker; 0 shares evenly those that are there now."""
    gpus: bool = False
    """Give each worker one GPU."""
    loading: Literal["auto", "worker", "ray"] = "auto"
    """Who decodes the pictures: threads of each worker, or Ray Data on other CPUs; auto: the worker where all
    pictures fit decoded into training.memory_budget_gb, else Ray Data."""
    decoders: int = 2
    """CPUs that decode for each worker, if Ray Data does."""
    judge: bool = True
    """Score each checkpoint by how ages are obeyed and sitters kept ("evaluate/score"), on held-out portraits where
    there are any, with the networks of jobs/evaluate.py, which are in no loss."""
    max_failures: int = 3
    """Restart the workers from the newest checkpoint after so many failures, then give up."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How to train."""

    def __post_init__(self) -> None:
        strategy, batch_size = self.training.strategy, self.training.batch_size
        if self.workers < 1 or self.decoders < 1:
            raise ConfigError(f"workers and decoders must be at least 1, found: {self.workers} and {self.decoders}")
        if self.workers > 1 and strategy == "plain":
            raise ConfigError(
                f"{self.workers} workers need --training.strategy ddp or deepspeed: with plain, each would train "
                "a model of its own"
            )
        if self.training.device == "cuda" and not self.gpus:
            raise ConfigError("training.device cuda needs --gpus: without it, Ray hides its GPUs from the workers")
        if self.training.device == "cpu" and self.gpus:
            raise ConfigError(
                "--gpus gives each worker a GPU that --training.device cpu leaves unused; drop one of them"
            )
        fewest = self.workers if self.min_workers is None else self.min_workers
        if not 1 <= fewest <= self.workers:
            raise ConfigError(f"min_workers must be in 1…{self.workers}, found: {fewest}")
        if fewest < self.workers and strategy != "ddp":
            raise ConfigError(
                f"min_workers needs --training.strategy ddp, found: {strategy}; a DeepSpeed checkpoint can only be "
                "continued by as many processes as wrote it"
            )
        if uneven := [n for n in range(fewest, self.workers + 1) if batch_size % n]:
            raise ConfigError(
                f"training.batch_size {batch_size} must be a multiple of every number of workers that may come up, "
                f"but {', '.join(map(str, uneven))} do not divide it"
            )


def run_training(config: TrainConfig) -> dict[str, Any]:
    """Trains on the connected Ray cluster and returns the last metrics of the first worker.

    Raises:
        CapriciousError: no usable data, too few CPUs, or the training failed more than `max_failures` times.
    """
    data, out = [storage.absolute(path) for path in config.data], storage.absolute(config.out)
    portraits = JoinedDatasets(data, "train")  # an unusable dataset is told here, in one line, and not by a worker
    beside = config.decoders if _ray_decodes(config, portraits) else 0
    cpus = config.cpus_per_worker or max(1, _shared_cpus() // config.workers - beside)
    training = _with_absolute_paths(config.training)
    settings = {"training": training, "data": data, "out": out, "fed": bool(beside), "judge": config.judge}
    return run_torch_workers(
        _train_on_worker,
        settings,
        out=out,
        workers=config.workers,
        min_workers=config.min_workers,
        cpus=cpus,
        gpus=config.gpus,
        max_failures=config.max_failures,
        streams=(NAME, InOrder(training, data, out, beside), beside) if beside else None,
        heed_sigterm=True,
    )


def _with_absolute_paths(training: TrainingConfig) -> TrainingConfig:
    """As `data` and `out`: workers have working directories of their own."""
    swap, begin = training.swap, training.warm_start
    if swap.estimator is not None:
        swap = replace(swap, estimator=storage.absolute(swap.estimator))
    return replace(training, swap=swap, warm_start=None if begin is None else storage.absolute(begin))


def _shared_cpus() -> int:
    if there := cpu_count():
        return there
    raise CapriciousError(
        "the cluster has no CPUs now that its workers could share; say how many each needs with --cpus-per-worker, "
        "and a cluster that grows with its work will grow"
    )


def _ray_decodes(config: TrainConfig, portraits: JoinedDatasets) -> bool:
    if config.loading != "auto":
        return config.loading == "ray"
    return decoded_bytes(portraits, config.training.resolution) > config.training.memory_budget_gb * 2**30


def _train_on_worker(settings: dict[str, Any]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    first = ray.train.get_context().get_world_rank() == 0
    portraits = held_out(settings["data"]) if first and settings["judge"] else None
    train(
        settings["training"],
        data=settings["data"],
        out=settings["out"],
        report=report,
        notices=notices,
        scorers=[] if portraits is None else [CheckpointScorer(portraits, settings["training"].resolution)],
        feed=partial(batches_from_ray, settings["training"]) if settings["fed"] else None,
        observers=[Gauges(settings["out"])] if first else [],
    )
