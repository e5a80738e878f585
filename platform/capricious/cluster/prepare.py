"""Prepare at any scale: a collection in, a prepared dataset and a table of rejects out."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from capricious.annotate.annotator import Annotator, AnnotatorConfig
from capricious.cluster.session import cpu_count, require_cpus
from capricious.cluster.shards import (
    ShardWorker,
    choose_shard_size,
    exit_code,
    fix_plan,
    listing_sha256,
    run_shards,
    shards_of,
)
from capricious.data import storage
from capricious.data.collections import Kind, Source, read_collection
from capricious.data.prepared import PreparedDataset, is_done, read_rejects, write_manifest, write_shard
from capricious.data.records import Face, Portrait, portrait_id, split_of
from capricious.errors import CapriciousError
from capricious.faces.image import decode, encode
from capricious.render.sheet import annotation_picture, contact_sheet

SHEET = "annotation.png"
"""Contact sheet beside the shards: a number of portraits with what was found."""


@dataclass(frozen=True)
class PrepareConfig:
    """What to prepare and how."""

    source: str
    """Collection: a folder, an s3:// address, or one picture."""
    out: str
    """Folder or s3:// address of the prepared dataset. The same command again resumes."""
    kind: Kind = "auto"
    """How the collection is labelled; auto takes labels.csv where there is one, UTKFace names, or none."""
    limit: int = 0
    """Only this many pictures, spread evenly over the collection; 0 for all."""
    test_share: float = 0.05
    """Share of the pictures kept for testing, chosen by their hash."""
    quality: int = 95
    """WebP quality of the stored crops."""
    shard_size: int = 512
    """Largest number of pictures in a shard, the most that a crash can lose."""
    workers: int = 0
    """Ray actors, one CPU each; 0 for one per CPU."""
    failure_share: float = 0.5
    """Above this share of rejected pictures the exit code is 1 instead of 3."""
    annotator: AnnotatorConfig = field(default_factory=AnnotatorConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.test_share < 1:
            raise ValueError(f"test_share must be in [0, 1), found: {self.test_share}")
        if self.shard_size < 1:
            raise ValueError(f"shard_size must be at least 1, found: {self.shard_size}")
        if self.limit < 0 or self.workers < 0:
            raise ValueError("limit and workers must not be negative")


@dataclass(frozen=True)
class PrepareOutcome:
    """What came of it."""

    pictures: int
    portraits: int
    rejects: int
    reasons: dict[str, int]

    def exit_code(self, failure_share: float) -> int:
        """0 when all went well, 3 when some failed, 1 when too many or all did."""
        return exit_code(self.pictures, self.portraits, self.rejects, failure_share)


class AnnotateShard(ShardWorker):
    """Annotates one shard of pictures in a Ray Data actor."""

    def __init__(self, out: str, annotator: AnnotatorConfig, quality: int, test_share: float):
        self.out = out
        self.annotator = Annotator(annotator)
        self.quality = quality
        self.test_share = test_share

    def run_shard(self, shard: int, sources: list[Source]) -> dict[str, int]:
        portraits: list[Portrait] = []
        rejects: list[dict[str, str]] = []
        for _, result in self.attempt(sources, self._portraits):
            if isinstance(result, dict):
                rejects.append(result)
            else:
                portraits.extend(result)
        write_shard(self.out, shard, portraits, rejects)
        return {"done": len(portraits), "failed": len(rejects)}

    def _portraits(self, source: Source, data: bytes) -> list[Portrait]:
        picture = decode(data, name=source.uri)
        faces = self.annotator.annotate(picture, source.labels)
        return [self._portrait(source, data, face, index) for index, face in enumerate(faces)]

    def _portrait(self, source: Source, data: bytes, face: Face, index: int) -> Portrait:
        return Portrait(
            id=portrait_id(data, index),
            source_uri=source.uri,
            face=index,
            split=split_of(hashlib.sha256(data).hexdigest(), self.test_share),
            image=encode(face.image, "webp", quality=self.quality),
            label_map=encode(face.label_map, "png"),
            landmarks=face.landmarks,
            quad=face.quad,
            attributes=face.attributes,
            attribute_source=face.attribute_source,
            detection_score=face.detection_score,
            resolution_score=face.resolution_score,
            inside_score=face.inside_score,
            license=source.license,
        )


def annotation_sheet(dataset: PreparedDataset, count: int = 16) -> bytes:
    """Returns a PNG of portraits spread evenly over the dataset: crop, landmarks, label map. For people to look at."""
    chosen = [dataset.portrait(i * len(dataset) // count) for i in range(min(count, len(dataset)))]
    rows, labels = [], []
    for portrait in chosen:
        known = portrait.attributes
        rows.append(annotation_picture(portrait.decoded(), 192))
        words = [PurePosixPath(portrait.source_uri).stem]
        words += [f"{known.age:.0f}" if known.age is not None else "age unknown"]
        words += [] if known.gender is None else ["male" if known.gender > 0.5 else "female"]
        labels.append(", ".join(words))
    # Two portraits to a row of the sheet: three pictures each make a sheet that fits a screen.
    pairs = [left + right for left, right in zip(rows[::2], [*rows[1::2], []], strict=False)]
    names = [" · ".join(labels[i : i + 2]) for i in range(0, len(labels), 2)]
    columns = ["crop", "landmarks", "label map"] * min(2, len(chosen))
    return encode(contact_sheet(pairs, names, columns, cell=160), "png")


def select(sources: list[Source], limit: int) -> list[Source]:
    """Takes `limit` sources, spread evenly (collections are often sorted by age), or all for 0."""
    if limit == 0 or limit >= len(sources):
        return sources
    return [sources[i * len(sources) // limit] for i in range(limit)]


def plan_of(config: PrepareConfig, sources: list[Source]) -> dict[str, Any]:
    """Everything that determines a prepared dataset."""
    return {
        "source": config.source,
        "listing_sha256": listing_sha256(sources),
        "pictures": len(sources),
        "test_share": config.test_share,
        "quality": config.quality,
        "annotator": asdict(config.annotator),
    }


def prepare(config: PrepareConfig) -> PrepareOutcome:
    """Prepares a collection on the connected Ray cluster; resumes what an earlier run has left.

    Raises:
        CapriciousError: nothing to prepare, the output folder belongs to another plan, too few CPUs.
    """
    out = storage.absolute(config.out)
    sources = select(read_collection(config.source, config.kind), config.limit)
    if not sources:
        raise CapriciousError(f"{config.source} has no files")
    workers = config.workers or cpu_count()
    require_cpus(workers, f"prepare with {workers} workers")
    size = choose_shard_size(len(sources), workers, config.shard_size)
    plan = fix_plan(out, plan_of(config, sources), {"shard_size": size})
    shards = shards_of(sources, plan["shard_size"])
    todo = {number: shard for number, shard in enumerate(shards) if not is_done(out, number)}
    if len(todo) < len(shards):
        print(f"{len(shards) - len(todo)} of {len(shards)} shards are done already")
    arguments = {
        "out": out,
        "annotator": config.annotator,
        "quality": config.quality,
        "test_share": config.test_share,
    }
    run_shards(AnnotateShard, arguments, todo, workers, "prepare")
    manifest = write_manifest(out, len(shards), plan, config.annotator.resolution)
    if manifest["portraits"]:
        storage.write_atomic(storage.join(out, SHEET), annotation_sheet(PreparedDataset(out, None)))
    reasons = Counter(f"{row['stage']}: {row['reason']}" for row in read_rejects(out))
    return PrepareOutcome(len(sources), manifest["portraits"], manifest["rejects"], dict(reasons.most_common()))
