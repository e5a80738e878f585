"""What one portrait is on disk: the Arrow schemas of the prepared dataset and of its rejects."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from capricious.errors import Rejection
from capricious.faces.attributes import Attributes
from capricious.faces.image import decode

SCHEMA_VERSION = 3

_ATTRIBUTES = pa.struct(
    [
        ("age", pa.float32()),
        ("gender", pa.float32()),
        ("glasses", pa.string()),
        ("smile", pa.float32()),
        ("emotion", pa.list_(pa.float32())),
    ]
)
_ATTRIBUTE_SOURCE = pa.struct([(field.name, pa.string()) for field in _ATTRIBUTES])

PORTRAIT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # sha256 of the source bytes, "-", index of the face
        ("source_uri", pa.string()),
        ("source_size", pa.list_(pa.int32(), 2)),  # width and height of the picture, source pixels
        ("face", pa.int32()),  # index of the face in the picture, largest first
        ("split", pa.string()),  # train | test
        ("image", pa.binary()),  # aligned crop, encoded
        ("label_map", pa.binary()),  # PNG, one byte a pixel
        ("landmarks", pa.list_(pa.float32(), 136)),  # 68×2 (x, y), source pixels
        ("quad", pa.list_(pa.float32(), 8)),  # 4×2, source pixels
        ("attributes", _ATTRIBUTES),
        ("attribute_source", _ATTRIBUTE_SOURCE),  # label | estimated | null
        ("detection_score", pa.float32()),  # 0…1
        ("landmark_score", pa.float32()),  # 0…1
        ("pose", pa.list_(pa.float32(), 3)),  # yaw, pitch, roll of the head in degrees
        ("resolution_score", pa.float32()),  # source pixels per crop pixel, along one side
        ("inside_score", pa.float32()),  # share of the crop that lies inside of the picture
        ("perceptual_hash", pa.binary()),  # of the crop: near-duplicates differ in few bits
        ("license", pa.string()),
    ]
)

REJECT_SCHEMA = pa.schema([(name, pa.string()) for name in ("uri", "stage", "reason", "detail")])


@dataclass(frozen=True)
class Face:
    """One annotated face of a picture in memory: what `annotate` finds and what `render` reads.

    Attributes:
        image: R×R×3 uint8 aligned crop.
        label_map: R×R uint8 of the seven classes.
        landmarks: 68×2 float32 (x, y), pixels of the source picture.
        quad: 4×2 float32, corners of the crop in the source picture: top left, bottom left,
            bottom right, top right.
        attributes, attribute_source: what is known of the sitter and from where ("label" | "estimated").
        detection_score: 0…1.
        landmark_score: 0…1, how sure the landmark backend is; 1 where it cannot tell.
        pose: 3 float32: yaw, pitch and roll of the head in degrees (annotate.pose).
        resolution_score: source pixels per crop pixel along one side; below 1 the crop is enlarged.
        inside_score: share of the crop that lies inside of the picture, 0…1.
    """

    image: np.ndarray
    label_map: np.ndarray
    landmarks: np.ndarray
    quad: np.ndarray
    attributes: Attributes
    attribute_source: dict[str, str | None]
    detection_score: float
    landmark_score: float
    pose: np.ndarray
    resolution_score: float
    inside_score: float


@dataclass(frozen=True)
class Portrait:
    """One face of one picture, ready for training or rendering.

    `image` and `label_map` are encoded bytes (they stay small between stages); `landmarks` is 68×2
    and `quad` 4×2 float32 in pixels of the source picture, whose width and height are `source_size`; `pose`
    is 3 float32. The scores are explained in PORTRAIT_SCHEMA.
    """

    id: str
    source_uri: str
    source_size: tuple[int, int]
    face: int
    split: str
    image: bytes
    label_map: bytes
    landmarks: np.ndarray
    quad: np.ndarray
    attributes: Attributes
    attribute_source: dict[str, str | None]
    detection_score: float
    landmark_score: float
    pose: np.ndarray
    resolution_score: float
    inside_score: float
    perceptual_hash: bytes
    license: str

    def row(self) -> dict[str, Any]:
        """Returns the portrait as one row of PORTRAIT_SCHEMA."""
        row = {name: getattr(self, name) for name in PORTRAIT_SCHEMA.names}
        row["landmarks"] = np.asarray(self.landmarks, np.float32).ravel().tolist()
        row["quad"] = np.asarray(self.quad, np.float32).ravel().tolist()
        row["pose"] = np.asarray(self.pose, np.float32).tolist()
        row["source_size"] = list(self.source_size)
        row["attributes"] = dict(vars(self.attributes))
        return row

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Portrait:
        """Inverse of row()."""
        values = dict(row)
        values["landmarks"] = np.asarray(row["landmarks"], np.float32).reshape(68, 2)
        values["quad"] = np.asarray(row["quad"], np.float32).reshape(4, 2)
        values["pose"] = np.asarray(row["pose"], np.float32)
        values["source_size"] = tuple(row["source_size"])
        values["attributes"] = Attributes(**row["attributes"])
        return cls(**values)

    def decoded(self) -> Face:
        """Decodes the pictures.

        Raises:
            Rejection: the row is damaged.
        """
        values = {field.name: getattr(self, field.name) for field in fields(Face)}
        image = decode(self.image, name=f"image of portrait {self.id}")
        return Face(**{**values, "image": image, "label_map": decode_label_map(self.label_map)})


def decode_label_map(png: bytes) -> np.ndarray:
    """Reads a label map, R×R uint8, as `encode` wrote it: class indices, not colours."""
    return np.asarray(Image.open(io.BytesIO(png)))


def portrait_id(source: bytes, face: int) -> str:
    """Names a portrait by content: the same picture gets the same id wherever it lies."""
    return f"{hashlib.sha256(source).hexdigest()}-{face}"


def picture_names(ids: Iterable[str]) -> np.ndarray:
    """Returns the first 8 bytes of the sha256 of each portrait's source picture, uint64, from the portraits' ids.

    Enough to tell pictures apart: among a million, two share theirs with a chance of 3 in 100 million.
    """
    return np.array([int(id[:16], 16) for id in ids], np.uint64)


def split_of(source_sha256: str, test_share: float) -> str:
    """Assigns "train" or "test" by the picture's hash: stable, and all faces of a picture stay together."""
    return "test" if int(source_sha256[:8], 16) / 0x1_0000_0000 < test_share else "train"


def reject_row(uri: str, rejection: Rejection) -> dict[str, str]:
    """Returns a rejection as one row of REJECT_SCHEMA."""
    return {"uri": uri, "stage": rejection.stage, "reason": rejection.reason, "detail": rejection.detail}
