"""What the student learns from: aligned crops with the teacher's soft labels, as rows of Parquet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from capricious.annotate.bisenet_parser import BiSeNetParser
from capricious.data import storage
from capricious.data.tables import read_table, write_table
from capricious.faces.align import align, outside_distance
from capricious.faces.image import decode, encode

TARGETS = "targets"
"""Folder of the shards."""

SIZE = 256
"""Side of the crops in pixels: what the student sees."""

TARGET_SCHEMA = pa.schema(
    [
        ("collection", pa.string()),  # the address of the collection that the picture belongs to
        ("source_uri", pa.string()),
        ("split", pa.string()),  # train | test
        ("image", pa.binary()),  # aligned crop, WebP
        ("soft_labels", pa.binary()),  # PNG; red, green, blue: probability of skin, hair, glasses, times 255
        ("inside", pa.binary()),  # PNG; 255 where the crop shows the picture, 0 where it is mirrored beyond its border
    ]
)


@dataclass(frozen=True)
class Target:
    """One crop and what the teacher says of it; both encoded."""

    collection: str
    source_uri: str
    split: str
    image: bytes
    soft_labels: bytes
    inside: bytes

    def row(self) -> dict[str, Any]:
        """Returns the target as one row of TARGET_SCHEMA."""
        return {name: getattr(self, name) for name in TARGET_SCHEMA.names}

    def decoded(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the crop and the soft labels, both SIZE×SIZE×3 uint8."""
        return decode(self.image, name=self.source_uri), np.asarray(Image.open(io.BytesIO(self.soft_labels)))

    def inside_mask(self) -> np.ndarray:
        """Returns where the crop shows the picture itself, SIZE×SIZE bool."""
        return np.asarray(Image.open(io.BytesIO(self.inside))) > 0


def targets_uri(folder: str, shard: int) -> str:
    """Names one shard of targets; its presence says that the shard is done."""
    return storage.join(folder, TARGETS, f"part-{shard:05d}.parquet")


def write_targets(folder: str, shard: int, targets: Sequence[Target]) -> None:
    """Writes one shard of targets."""
    write_table(targets_uri(folder, shard), [target.row() for target in targets], TARGET_SCHEMA)


def read_targets(folders: Sequence[str], split: str) -> list[Target]:
    """Reads the targets of one split from finished folders, in a fixed order."""
    targets = []
    for folder in folders:
        for uri in storage.list_files(storage.join(folder, TARGETS)):
            targets += [Target(**row) for row in read_table(uri).to_pylist() if row["split"] == split]
    return targets


def make_target(picture: np.ndarray, quad: np.ndarray, teacher: BiSeNetParser, **known: str) -> Target:
    """Aligns one face and asks the teacher.

    Args:
        picture: H×W×3 uint8.
        quad: 4×2 corners of the crop, source pixels.
        teacher: sees the face at its own size, 512 px; what it says is averaged down to SIZE.
        known: collection, source_uri and split of the target.
    """
    soft = teacher.soft_labels(align(picture, quad, teacher.size))
    factor = teacher.size // SIZE
    soft = soft.reshape(SIZE, factor, SIZE, factor, 3).mean((1, 3))
    outside = outside_distance(quad, SIZE, *picture.shape[1::-1])
    return Target(
        image=encode(align(picture, quad, SIZE), "webp", quality=95),
        soft_labels=encode(np.rint(soft * 255).astype(np.uint8), "png"),
        inside=encode(np.where(outside > 0, 0, 255).astype(np.uint8), "png"),
        **known,
    )
