"""Train our parser at any scale: the teacher labels collections, the student learns, a held-out part measures it."""

from __future__ import annotations

import io
import json
import logging
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray.train
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer

from capricious.annotate.distill.loop import DistillConfig, distill
from capricious.annotate.distill.measure import by_collection
from capricious.annotate.distill.targets import TARGET_SCHEMA, Target, make_target
from capricious.annotate.finder import FaceFinder
from capricious.annotate.parsing import BiSeNetParser
from capricious.annotate.unet_parser import UNetParser, save_unet
from capricious.cluster.plan import BatchConfig, Plan, make_plan
from capricious.cluster.prepare import content_sha256
from capricious.cluster.session import cpu_count, require_cpus
from capricious.cluster.shards import ShardWorker, run_shards
from capricious.data import storage
from capricious.data.collections import Source
from capricious.data.records import split_of
from capricious.errors import CapriciousError, ConfigError
from capricious.faces.align import quad_of
from capricious.faces.image import decode

PARSER = "parser.safetensors"
MEASURES = "parser.json"


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
    """Ray actors that run the teacher, one CPU each; 0 for one per CPU."""
    workers: int = 1
    """Training processes."""
    gpus: bool = False
    """Give each training process one GPU."""
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
        if self.workers < 1 or self.distill.batch_size % self.workers:
            raise ConfigError(
                f"workers must divide distill.batch_size {self.distill.batch_size}, found: {self.workers}"
            )


class LabelShard(ShardWorker):
    """Runs the teacher over one shard of pictures in a Ray Data actor."""

    def __init__(self, out: str, collection: str, test_share: float):
        super().__init__(out)
        self.collection, self.test_share = collection, test_share
        self.finder = FaceFinder()
        self.teacher = BiSeNetParser()

    def run_shard(self, shard: int, sources: list[Source]) -> dict[str, int]:
        rows, failed = [], 0
        for _, result in self.attempt(sources, self._targets):
            if isinstance(result, dict):
                failed += 1
            else:
                rows += [target.row() for target in result]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, TARGET_SCHEMA), buffer, compression="zstd")
        storage.write_atomic(targets_uri(self.out, shard), buffer.getvalue())
        return {"done": len(rows), "failed": failed}

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


def targets_uri(out: str, shard: int) -> str:
    """Names one shard of targets; its presence says that the shard is done."""
    return storage.join(out, "targets", f"part-{shard:05d}.parquet")


def read_targets(folders: list[str], split: str) -> list[Target]:
    """Reads the targets of one split from finished folders, in a fixed order."""
    targets = []
    for folder in folders:
        for uri in storage.list_files(storage.join(folder, "targets")):
            rows = pq.read_table(io.BytesIO(storage.read(uri))).to_pylist()
            targets += [Target(**row) for row in rows if row["split"] == split]
    return targets


def label(config: TrainParserConfig) -> list[str]:
    """Lets the teacher label all collections; returns a folder of targets for each."""
    workers = config.label_workers or cpu_count()
    require_cpus(workers, f"labelling with {workers} workers")
    folders = []
    for number, source in enumerate(config.sources):
        name = f"{number}-{PurePosixPath(source.rstrip('/')).stem}"
        batch = BatchConfig(source=source, out=storage.join(storage.absolute(config.out), name), limit=config.limit)
        plan = make_plan(batch, {"test_share": config.test_share}, workers)
        _label_collection(plan, source, config.test_share, workers)
        folders.append(plan.out)
    return folders


def _label_collection(plan: Plan, source: str, test_share: float, workers: int) -> None:
    todo = [shard for shard in range(plan.shards) if not storage.exists(targets_uri(plan.out, shard))]
    arguments = {"out": plan.out, "collection": source, "test_share": test_share}
    run_shards(LabelShard, arguments, plan, todo, workers, f"label {source}")


def train_parser(config: TrainParserConfig) -> dict[str, Any]:
    """Labels, trains and measures on the connected Ray cluster; returns the measures, by collection.

    Raises:
        CapriciousError: a collection is unusable, too few CPUs, or the training failed too often.
    """
    folders = label(config)
    cpus = max(1, cpu_count() // config.workers)
    trainer = TorchTrainer(
        _train_on_worker,
        train_loop_config={"config": config, "folders": folders, "threads": cpus},
        scaling_config=ScalingConfig(
            num_workers=config.workers, use_gpu=config.gpus, resources_per_worker={"CPU": cpus}
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=storage.absolute(config.out),
            failure_config=FailureConfig(max_failures=config.max_failures),
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        reasons = sorted({str(reason) for reason in error.worker_failures.values()})
        raise CapriciousError(f"training the parser failed: {'; '.join(reasons)}") from error
    return json.loads((Path(config.out) / MEASURES).read_text())


def _train_on_worker(settings: dict[str, Any]) -> None:
    import torch

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(settings["threads"])
    config: TrainParserConfig = settings["config"]
    out = Path(config.out).absolute()
    targets = read_targets(settings["folders"], "train")
    average = distill(config.distill, targets, out, device="cuda" if config.gpus else "cpu", report=_report)
    if ray.train.get_context().get_world_rank() == 0:
        save_unet(average, out / PARSER)
        measures = measure_parser(out / PARSER, settings["folders"])
        about = {"trained_on": len(targets), "distill": asdict(config.distill), "held_out": measures}
        storage.write_atomic(str(out / MEASURES), json.dumps(about, indent=2).encode())


def measure_parser(path: Path, folders: list[str]) -> dict[str, dict[str, float]]:
    """Measures a parser on the held-out targets, by collection."""
    return by_collection(read_targets(folders, "test"), UNetParser(path=path).parse)


def _report(metrics: dict[str, float], checkpoint: Path) -> None:
    """Tells Ray Train of a checkpoint that lies in OUT already: what Ray keeps is a pointer."""
    with tempfile.TemporaryDirectory() as pointer:
        rank = ray.train.get_context().get_world_rank()
        (Path(pointer) / f"checkpoint-{rank}.json").write_text(json.dumps({"file": str(checkpoint), **metrics}))
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(pointer))
