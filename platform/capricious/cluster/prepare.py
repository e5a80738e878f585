"""Prepare at any scale: a collection in, a prepared dataset and a table of rejects out."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from capricious.annotate.annotator import Annotator, AnnotatorConfig, parser_sha256, settled
from capricious.cluster.plan import BatchConfig, Plan, exit_code, make_plan
from capricious.cluster.session import worker_count
from capricious.cluster.shards import ShardWorker, run_shards
from capricious.data import storage
from capricious.data.collections import Source
from capricious.data.prepared import (
    MANIFEST,
    read_manifest,
    read_receipts,
    read_rejects,
    read_shard,
    reopen,
    spread,
    write_manifest,
    write_shard,
)
from capricious.data.records import Face, Portrait, portrait_id, split_of
from capricious.data.titles import title_of
from capricious.errors import ConfigError
from capricious.evaluate.prepared_report import REPORT, write_report
from capricious.faces.image import decode, encode
from capricious.faces.perceptual_hash import perceptual_hash
from capricious.render.sheet import annotation_picture, contact_sheet

SHEET = "annotation.png"
"""Contact sheet beside the shards: a number of portraits with what was found."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(BatchConfig):
    """What to prepare and how."""

    test_share: float = 0.05
    """Share of the pictures kept for testing, chosen by their content."""
    quality: int = 95
    """WebP quality of the stored crops."""
    retry_rejects: bool = False
    """Try the rejected pictures of an earlier run once more, and only them."""
    annotator: AnnotatorConfig = field(default_factory=AnnotatorConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.test_share < 1:
            raise ConfigError(f"test_share must be in [0, 1), found: {self.test_share}")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality must be in 1…100, found: {self.quality}")


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

    KIND = "prepare"

    def __init__(self, out: str, config: PrepareConfig, retry: frozenset[int]):
        super().__init__(out)
        self.config = config
        self.retry = retry
        self.annotator = Annotator(config.annotator)
        self.annotator.stopwatch = self.stopwatch

    def run_shard(self, shard: int, sources: list[Source]) -> dict[str, int]:
        kept = self._kept(shard) if shard in self.retry else {}
        portraits = dict(kept)
        rejects: list[dict[str, str]] = []
        with self.stopwatch.stage("shard"):
            for source, result in self.attempt([s for s in sources if s.uri not in kept], self._portraits):
                if isinstance(result, dict):
                    rejects.append(result)
                else:
                    portraits[source.uri] = result
        rows = [row for source in sources for row in portraits.get(source.uri, ())]
        write_shard(self.out, shard, rows, rejects, pictures=len(sources), seconds=self.lap())
        return {"done": len(rows), "failed": len(rejects)}

    def _kept(self, shard: int) -> dict[str, list[Portrait]]:
        """Returns the portraits that an earlier run made of this shard, by their source."""
        kept: dict[str, list[Portrait]] = {}
        for row in read_shard(self.out, "portraits", shard).to_pylist():
            kept.setdefault(row["source_uri"], []).append(Portrait.from_row(row))
        return kept

    def _portraits(self, source: Source, data: bytes) -> list[Portrait]:
        with self.stopwatch.stage("decode"):
            picture = decode(data, name=source.uri)
        faces = self.annotator.annotate(picture, source.labels)
        with self.stopwatch.stage("encode"):
            split = split_of(content_sha256(picture), self.config.test_share)
            height, width = picture.shape[:2]
            found = enumerate(faces)
            return [self._portrait(source, data, (width, height), face, index, split) for index, face in found]

    def _portrait(
        self, source: Source, data: bytes, size: tuple[int, int], face: Face, index: int, split: str
    ) -> Portrait:
        return Portrait(
            id=portrait_id(data, index),
            source_uri=source.uri,
            source_size=size,
            face=index,
            split=split,
            image=encode(face.image, "webp", quality=self.config.quality),
            label_map=encode(face.label_map, "png"),
            landmarks=face.landmarks,
            quad=face.quad,
            attributes=face.attributes,
            attribute_source=face.attribute_source,
            detection_score=face.detection_score,
            landmark_score=face.landmark_score,
            pose=face.pose,
            resolution_score=face.resolution_score,
            inside_score=face.inside_score,
            perceptual_hash=perceptual_hash(face.image),
            license=source.license,
        )


def content_sha256(picture: np.ndarray) -> str:
    """Fingerprint of the pixels: a file that was only renamed or re-saved without loss keeps its split."""
    height, width = picture.shape[:2]
    return hashlib.sha256(f"{height}×{width}".encode() + np.ascontiguousarray(picture).tobytes()).hexdigest()


def annotation_sheet(portraits: list[Portrait]) -> bytes:
    """Returns a PNG of portraits: crop, landmarks, label map. For people to look at."""
    rows, labels = [], []
    for portrait in portraits:
        known = portrait.attributes
        rows.append(annotation_picture(portrait.decoded(), 192))
        words = [title_of(portrait.source_uri)]
        words += [f"{known.age:.0f}" if known.age is not None else "age unknown"]
        words += [] if known.gender is None else ["male" if known.gender > 0.5 else "female"]
        labels.append(", ".join(words))
    # Two portraits to a row of the sheet: three pictures each make a sheet that fits a screen.
    pairs = [left + right for left, right in zip(rows[::2], [*rows[1::2], []], strict=False)]
    names = [" · ".join(labels[i : i + 2]) for i in range(0, len(labels), 2)]
    columns = ["crop", "landmarks", "label map"] * min(2, len(portraits))
    return encode(contact_sheet(pairs, names, columns, cell=160), "png")


def asked(config: PrepareConfig) -> dict[str, Any]:
    """Everything besides the collection that determines a prepared dataset."""
    return {
        "test_share": config.test_share,
        "quality": config.quality,
        "annotator": asdict(config.annotator),
        "parser_sha256": parser_sha256(config.annotator),
    }


def prepare(config: PrepareConfig) -> PrepareOutcome:
    """Prepares a collection on the connected Ray cluster; resumes what an earlier run has left.

    Raises:
        CapriciousError: nothing to prepare, the output folder belongs to another plan, too few CPUs.
    """
    config = replace(config, annotator=settled(config.annotator))
    workers = worker_count(config.workers, "prepare")
    plan = make_plan(config, asked(config), workers)
    receipts = read_receipts(plan.out)
    retry = frozenset(s for s, receipt in receipts.items() if config.retry_rejects and receipt["rejects"])
    todo = [shard for shard in range(plan.shards) if shard not in receipts or shard in retry]
    if todo:
        storage.remove(storage.join(plan.out, REPORT))
        reopen(plan.out)
    run_shards(AnnotateShard, {"out": plan.out, "config": config, "retry": retry}, plan, todo, workers, "prepare")
    if not all(storage.exists(storage.join(plan.out, name)) for name in (MANIFEST, REPORT)):
        finish(plan, config)
    manifest = read_manifest(plan.out)
    reasons = Counter(f"{row['stage']}: {row['reason']}" for row in read_rejects(plan.out))
    return PrepareOutcome(plan.pictures, manifest["portraits"], manifest["rejects"], dict(reasons.most_common()))


def finish(plan: Plan, config: PrepareConfig) -> None:
    """Completes a prepared dataset all of whose shards are done: manifest, report, sheet."""
    storage.remove_partial(plan.out)
    manifest = write_manifest(plan.out, plan.shards, plan.fields, config.annotator.resolution)
    write_report(plan.out)
    if manifest["portraits"]:
        storage.write_atomic(storage.join(plan.out, SHEET), annotation_sheet(spread(plan.out, 16)))
