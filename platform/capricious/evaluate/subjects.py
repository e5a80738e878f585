"""Measured rows as arrays: the sitters, and each subject's renders of them. The baselines are made here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from capricious.evaluate.features import DIMENSIONS
from capricious.evaluate.measure import REAL

IDENTITY = "input unchanged"
"""The baseline that returns the original whatever age is asked for: it shows what a figure is worth."""

MEDIA = ("photograph", "painting")


@dataclass(frozen=True, eq=False)
class Sitters:
    """P sitters.

    Attributes:
        ids, source_uris: of the portraits.
        medium: P indices into MEDIA.
        age: P years, nan where unknown.
        labelled: P bools, whether the age is a label (else an estimate of prepare's).
        gender: P, 0 female … 1 male, nan where unknown.
        gender_labelled: P bools, whether that is a label.
    """

    ids: tuple[str, ...]
    source_uris: tuple[str, ...]
    medium: np.ndarray
    age: np.ndarray
    labelled: np.ndarray
    gender: np.ndarray
    gender_labelled: np.ndarray

    def groups(self) -> dict[str, np.ndarray]:
        """Returns the subgroups that have members, as P bools by name; "all" is the first."""
        found = {"all": np.ones(len(self.ids), bool)}
        found.update({medium: self.medium == i for i, medium in enumerate(MEDIA)})
        found.update({"female": self.gender <= 0.5, "male": self.gender > 0.5})
        found.update({decade_name(d): self.decade() == d for d in range(11)})
        return {name: members for name, members in found.items() if members.any()}

    def decade(self) -> np.ndarray:
        """Returns each sitter's decade, P int; −1 where the age is unknown."""
        return decades(self.age)


def decades(age: np.ndarray) -> np.ndarray:
    """Returns the decade of each age, 10 for a hundred and more; −1 where the age is unknown."""
    return np.where(np.isnan(age), -1, np.minimum(np.nan_to_num(age) // 10, 10)).astype(int)


def decade_name(decade: int) -> str:
    """Names a decade of age, e.g. "30–39"."""
    return f"{10 * decade}–{10 * decade + 9}" if decade < 10 else "100+"


@dataclass(frozen=True, eq=False)
class Subject:
    """What was measured of one subject, on P portraits with V pictures each (measure.SCHEMA explains the names).

    Attributes:
        name: of the subject.
        pictures: name → P×V float32, nan where there is no value.
        portraits: name → P float32: of the reconstruction and of the sweep as a whole.
        features: P×V×1280 float16; V is 0 where they were not measured.
    """

    name: str
    pictures: Mapping[str, np.ndarray]
    portraits: Mapping[str, np.ndarray]
    features: np.ndarray

    def repeated(self, name: str, times: int) -> Subject:
        """Returns the subject that answers every request with this one's first picture: a baseline."""
        first = np.zeros(times, int)
        return replace(
            self,
            name=name,
            pictures={key: values[:, first] for key, values in self.pictures.items()},
            portraits={**self.portraits, "roughness": np.full(len(self.features), np.nan, np.float32)},
            features=self.features[:, first] if self.features.shape[1] else self.features,
        )


PICTURE_VALUES = (
    "estimated_age",
    "male",
    "cosine",
    "dlib_distance",
    "glasses",
    "region_iou",
    "part_iou",
    "background_change",
)
PORTRAIT_VALUES = ("roughness", "psnr", "ssim", "perceptual")


def sitters_of(rows: list[dict[str, Any]]) -> Sitters:
    """Reads the sitters from the rows of the subject "real"."""
    return Sitters(
        ids=tuple(row["portrait"] for row in rows),
        source_uris=tuple(row["source_uri"] for row in rows),
        medium=np.array([MEDIA.index(row["medium"]) for row in rows]),
        age=_numbers(row["age"] for row in rows),
        labelled=np.array([row["age"] is not None and row["age_source"] == "label" for row in rows]),
        gender=_numbers(row["gender"] for row in rows),
        gender_labelled=np.array([row["gender"] is not None and row["gender_source"] == "label" for row in rows]),
    )


def subject_of(rows: list[dict[str, Any]]) -> Subject:
    """Reads one subject from its rows, which are in the order of the sitters."""
    features = [np.frombuffer(row["features"] or b"", np.float16).reshape(-1, DIMENSIONS) for row in rows]
    return Subject(
        name=rows[0]["subject"],
        pictures={name: np.array([row[name] for row in rows], np.float32) for name in PICTURE_VALUES},
        portraits={name: _numbers(row[name] for row in rows) for name in PORTRAIT_VALUES},
        features=np.stack(features),
    )


def embeddings_of(rows: list[dict[str, Any]]) -> np.ndarray:
    """Returns the embeddings of first pictures, P×1024 float32 of length 1; P is 0 where they were not measured."""
    known = [np.frombuffer(row["embedding"], np.float16).astype(np.float32) for row in rows if row["embedding"]]
    if not known:
        return np.zeros((0, 1), np.float32)
    stacked = np.stack(known)
    return stacked / np.linalg.norm(stacked, axis=1, keepdims=True)


def identity_of(real: Subject, times: int) -> Subject:
    """Returns the baseline IDENTITY. Of a reconstruction it has none: it is the original."""
    nothing = {name: np.full(len(real.features), np.nan, np.float32) for name in PORTRAIT_VALUES}
    return replace(real.repeated(IDENTITY, times), portraits=nothing)


def by_subject(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Sorts rows by subject, "real" first, and each subject's rows by their portraits' order."""
    found: dict[str, list[dict[str, Any]]] = {REAL: []}
    for row in rows:
        found.setdefault(row["subject"], []).append(row)
    return found


def _numbers(values: Iterable[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float32)
