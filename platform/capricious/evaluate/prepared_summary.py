"""Counts what is in a prepared dataset, one shard at a time, so that memory does not grow with it."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from capricious.data.ahead import ahead
from capricious.data.prepared import read_manifest, read_receipts, read_shard
from capricious.faces.attributes import EMOTIONS, GENDERS, GLASSES

DECADE_NAMES = (*(f"{start}–{start + 9}" for start in range(0, 100, 10)), "100+")
SPLITS = ("train", "test")
SMILES = ("under 0.2", "0.2–0.4", "0.4–0.6", "0.6–0.8", "0.8 and over")
UNKNOWN = -1
"""Index of what is not known: the last entry of each axis of Summary.sitters."""


@dataclass(frozen=True)
class Measure:
    """A number that each portrait has, and the bins in which it is shown; what lies beyond falls in the last bins."""

    title: str
    unit: str
    low: float
    high: float
    bins: int

    def histogram(self, values: np.ndarray) -> np.ndarray:
        """Counts values into the bins; NaN is left out."""
        edges = np.linspace(self.low, self.high, self.bins + 1)
        inside = np.clip(values[np.isfinite(values)], self.low, self.high)
        return np.histogram(inside, edges)[0]


MEASURES = {
    "yaw": Measure("Head turned to the side", "°", -75, 75, 30),
    "pitch": Measure("Head raised", "°", -60, 60, 24),
    "roll": Measure("Head tilted", "°", -45, 45, 30),
    "detection_score": Measure("Detection score", "", 0, 1, 25),
    "landmark_score": Measure("Landmark score", "", 0, 1, 25),
    "resolution_score": Measure("Source pixels per crop pixel", "", 0, 5, 25),
    "inside_score": Measure("Share of the crop inside of the picture", "", 0, 1, 25),
}

_COLUMNS = ["id", "face", "split", "attributes", "attribute_source", "pose", "license"] + [
    name for name in MEASURES if name not in ("yaw", "pitch", "roll")
]


class Sample:
    """Keeps the items with the smallest hashes: a random choice that is the same at every run, in whatever order."""

    def __init__(self, size: int):
        self.size = size
        self._heap: list[tuple[int, Any]] = []

    def offer(self, key: str, item: Any) -> None:
        """Considers an item; `key` decides, and must tell items apart."""
        rank = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
        entry = (-rank, item)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, entry)
        elif entry > self._heap[0]:
            heapq.heapreplace(self._heap, entry)

    def items(self) -> list[Any]:
        """Returns the chosen items in the order of their hashes."""
        return [item for _, item in sorted(self._heap, reverse=True)]


@dataclass
class Rejected:
    """All rejects with one stage and reason."""

    stage: str
    reason: str
    count: int = 0
    # of (uri, detail, shard)
    examples: Sample = field(default_factory=lambda: Sample(6))


@dataclass
class Summary:
    """What was counted.

    Attributes:
        manifest: of the dataset.
        pictures, portraits: how many.
        seconds: time spent by all workers, by stage.
        sitters: portraits by (age decade, gender, glasses, split); on the first three axes the last entry counts
            the unknown. int64, 12×3×4×2.
        smiles, emotions: portraits by SMILES and by the most probable of EMOTIONS.
        sources: for each attribute, portraits by "label", "estimated" and None (unknown).
        measures: histogram of each of MEASURES.
        faces: number of portraits by the index of their face in the picture.
        licenses: portraits by licence.
        rejected: by (stage, reason).
        sample: (shard, row) of some portraits.
    """

    manifest: dict[str, Any]
    pictures: int = 0
    portraits: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    sitters: np.ndarray = field(
        default_factory=lambda: np.zeros(
            (len(DECADE_NAMES) + 1, len(GENDERS) + 1, len(GLASSES) + 1, len(SPLITS)), dtype=np.int64
        )
    )
    smiles: np.ndarray = field(default_factory=lambda: np.zeros(len(SMILES), np.int64))
    emotions: np.ndarray = field(default_factory=lambda: np.zeros(len(EMOTIONS), np.int64))
    sources: dict[str, Counter[str | None]] = field(default_factory=lambda: defaultdict(Counter))
    measures: dict[str, np.ndarray] = field(
        default_factory=lambda: {name: np.zeros(measure.bins, np.int64) for name, measure in MEASURES.items()}
    )
    faces: Counter[int] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    rejected: dict[tuple[str, str], Rejected] = field(default_factory=dict)
    sample: Sample = field(default_factory=lambda: Sample(24))

    @property
    def rejects(self) -> int:
        """Number of rejected pictures."""
        return sum(group.count for group in self.rejected.values())

    def faces_per_picture(self) -> Counter[int]:
        """Returns the number of pictures by the number of portraits that they gave; 0 are the rejects.

        The faces of a picture are numbered from 0 without gaps, so as many pictures have exactly k of them as there
        are faces of number k − 1, less those of number k.
        """
        pictures = Counter({number + 1: count - self.faces[number + 1] for number, count in self.faces.items()})
        pictures[0] = self.rejects
        return +pictures


def summarize(out: str) -> Summary:
    """Counts a complete prepared dataset.

    Raises:
        CapriciousError: it is not complete, or of another schema version.
    """
    summary = Summary(read_manifest(out))
    receipts = read_receipts(out)
    shards = [entry["shard"] for entry in summary.manifest["shards"]]
    for shard in shards:
        summary.pictures += receipts[shard]["pictures"]
        for stage, seconds in receipts[shard]["seconds"].items():
            summary.seconds[stage] += seconds
    shown = [shard for shard in shards if receipts[shard]["portraits"]]
    tables = ahead(partial(read_shard, out, "portraits", columns=_COLUMNS), shown)
    for shard, table in zip(shown, tables, strict=True):
        _add_portraits(summary, shard, table)
    refused = [shard for shard in shards if receipts[shard]["rejects"]]
    for shard, table in zip(refused, ahead(partial(read_shard, out, "rejects"), refused), strict=True):
        _add_rejects(summary, shard, table.to_pylist())
    return summary


def _add_portraits(summary: Summary, shard: int, table: pa.Table) -> None:
    summary.portraits += len(table)
    for row, name in enumerate(table["id"].to_pylist()):
        summary.sample.offer(f"{name} {shard} {row}", (shard, row))
    summary.faces.update(table["face"].to_pylist())
    summary.licenses.update(text or "" for text in table["license"].to_pylist())

    attributes = {
        name: table["attributes"].combine_chunks().field(name).to_pylist() for name in _attribute_names(table)
    }
    cells = zip(
        (UNKNOWN if age is None else min(int(age // 10), len(DECADE_NAMES) - 1) for age in attributes["age"]),
        (UNKNOWN if gender is None else int(gender > 0.5) for gender in attributes["gender"]),
        (UNKNOWN if glasses is None else GLASSES.index(glasses) for glasses in attributes["glasses"]),
        (SPLITS.index(split) for split in table["split"].to_pylist()),
        strict=True,
    )
    for cell, count in Counter(cells).items():
        summary.sitters[cell] += count
    for smile in attributes["smile"]:
        if smile is not None:
            summary.smiles[min(int(smile * len(SMILES)), len(SMILES) - 1)] += 1
    for emotion in attributes["emotion"]:
        if emotion is not None:
            summary.emotions[int(np.argmax(emotion))] += 1
    for name in attributes:
        summary.sources[name].update(_sources(table, name, attributes[name]))

    pose = table["pose"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, 3)
    values = dict(zip(("yaw", "pitch", "roll"), pose.T, strict=True))
    for name, measure in MEASURES.items():
        column = values[name] if name in values else table[name].to_numpy()
        summary.measures[name] += measure.histogram(np.asarray(column, np.float64))


def _attribute_names(table: pa.Table) -> list[str]:
    return [member.name for member in table.schema.field("attributes").type]


def _sources(table: pa.Table, name: str, values: list[Any]) -> list[str | None]:
    """Returns where each value came from; what is unknown came from nowhere."""
    sources = table["attribute_source"].combine_chunks().field(name).to_pylist()
    return [None if value is None else source for value, source in zip(values, sources, strict=True)]


def _add_rejects(summary: Summary, shard: int, rows: list[dict[str, str]]) -> None:
    for row in rows:
        key = (row["stage"], row["reason"])
        group = summary.rejected.setdefault(key, Rejected(*key))
        group.count += 1
        group.examples.offer(row["uri"], (row["uri"], row["detail"], shard))
