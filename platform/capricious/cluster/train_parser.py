"""Train our parser at any scale: the teacher labels collections, the student learns, a held-out part measures it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from capricious.annotate.bisenet_parser import BiSeNetParser
from capricious.annotate.distill.loop import DistillConfig
from capricious.annotate.distill.parser import MEASURES, make_parser
from capricious.annotate.distill.targets import TARGETS, Target, make_target, write_targets
from capricious.annotate.finder import FaceFinder
from capricious.annotate.landmarks import settled
from capricious.cluster.plan import BatchConfig, Plan, make_plan
from capricious.cluster.prepare import content_sha256
from capricious.cluster.session import cpu_count, worker_count
from capricious.cluster.shards import ShardWorker, run_shards
from capricious.cluster.torch_workers import report, run_torch_workers
from capricious.data import storage
from capricious.data.collections import Source
from capricious.data.records import split_of
from capricious.data.tables import part_numbers
from capricious.errors import ConfigError
from capricious.faces.align import quad_of
from capricious.faces.image import decode

NEEDED_WEIGHTS = ("blazeface", "face-mesh", "bisenet", "mobilenetv2")
"""Of the registered ones: where the faces are, the teacher, and what the student starts from."""


@dataclass(frozen=True)
class TrainParserConfig:
    """From what to train the parser, where, and with how many workers."""

    sources: tuple[str, ...]
    """Collections of photographs and paintings."""
    out: str
    """Folder of the targets, the checkpoint and the parser, shared by all nodes. The same command again resumes."""
    limit: int = 3000
    """At most so many pictures of each collection, spread evenly."""
    test_share: float = 0.12
    """Share of the pictures, chosen by their content, that only measure the parser."""
    label_workers: int = 0
    """Ray actors that run the teacher, one CPU each; 0 for one per CPU that is there now."""
    workers: int = 1
    """Training processes."""
    gpus: bool = False
    """Give each training process one GPU."""
    loaders: int = 0
    """Processes that wear pictures for each training process; 0: a thread, enough for a CPU. A GPU takes a dozen."""
    max_failures: int = 3
    """Restart the training from its checkpoint after so many failures, then give up."""
    distill: DistillConfig = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources must name at least one collection")
        if "://" in self.out:
            raise ConfigError(f"out must be a folder that all nodes share, found: {self.out}")
        if not 0.0 < self.test_share < 1.0:
            raise ConfigError(f"test_share must be above 0 and below 1, found: {self.test_share}")
        if self.loaders < 0:
            raise ConfigError(f"loaders must be at least 0, found: {self.loaders}")
        if self.workers < 1 or self.distill.batch_size % self.workers:
            raise ConfigError(
                f"workers must divide distill.batch_size {self.distill.batch_size}, found: {self.workers}"
            )


class LabelShard(ShardWorker):
    """Runs the teacher over one shard of pictures in a Ray Data actor."""

    KIND = "label"

    def __init__(self, out: str, collection: str, test_share: float, landmarks: str):
        super().__init__(out)
        self.collection, self.test_share = collection, test_share
        self.finder = FaceFinder(landmark_backend=landmarks)
        self.teacher = BiSeNetParser()

    def run_shard(self, shard: int, sources: list[Source]) -> dict[str, int]:
        targets: list[Target] = []
        failed = 0
        for _, result in self.attempt(sources, self._targets):
            if isinstance(result, dict):
                failed += 1
            else:
                targets += result
        write_targets(self.out, shard, targets)
        return {"done": len(targets), "failed": failed}

    def _targets(self, source: Source, data: bytes) -> list[Target]:
        picture = decode(data, name=source.uri)
        located, rejections = self.finder.find(picture)
        if not located:
            raise rejections[0]
        known = {
            "collection": self.collection,
            "source_uri": source.uri,
            "split": split_of(content_sha256(picture), self.test_share),
        }
        return [make_target(picture, quad_of(face.points), self.teacher, **known) for face in located]


def label(config: TrainParserConfig) -> list[str]:
    """Lets the teacher label all collections; returns a folder of targets for each."""
    workers = worker_count(config.label_workers, "label", flag="--label-workers")
    settings = {"test_share": config.test_share, "landmarks": settled("auto")}
    folders = []
    for number, source in enumerate(config.sources):
        name = f"{number}-{PurePosixPath(source.rstrip('/')).stem}"
        batch = BatchConfig(source=source, out=storage.join(storage.absolute(config.out), name), limit=config.limit)
        plan = make_plan(batch, settings, workers)
        _label_collection(plan, source, settings, workers)
        folders.append(plan.out)
    return folders


def _label_collection(plan: Plan, source: str, settings: dict[str, Any], workers: int) -> None:
    todo = sorted(set(range(plan.shards)) - part_numbers(storage.join(plan.out, TARGETS)))
    arguments = {"out": plan.out, "collection": source, **settings}
    run_shards(LabelShard, arguments, plan, todo, workers, f"label {source}")


def train_parser(config: TrainParserConfig) -> dict[str, Any]:
    """Labels, trains and measures on the connected Ray cluster; returns the measures, by collection.

    Raises:
        CapriciousError: a collection is unusable, too few CPUs, or the training failed too often.
    """
    folders = label(config)
    out = storage.absolute(config.out)
    cpus = max(1, cpu_count() // config.workers)
    run_torch_workers(
        _train_on_worker,
        {"config": config, "folders": folders, "out": out, "threads": cpus},
        out=out,
        workers=config.workers,
        cpus=cpus,
        gpus=config.gpus,
        max_failures=config.max_failures,
    )
    return json.loads(storage.read(storage.join(out, MEASURES)))


def _train_on_worker(settings: dict[str, Any]) -> None:
    import torch

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(settings["threads"])
    config: TrainParserConfig = settings["config"]
    out = Path(settings["out"])  # absolute: workers have other working directories
    device = "cuda" if config.gpus else "cpu"
    make_parser(config.distill, settings["folders"], out, device=device, loaders=config.loaders, report=report)
