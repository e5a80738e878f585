"""Global attributes of a sitter, each of which may be unknown, and the vector that the networks read."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

GENDERS = ("female", "male")
GLASSES = ("none", "reading", "sun")
EMOTIONS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")

VECTOR_VERSION = 1
"""Version of VECTOR_FIELDS; a bundle trained with another version is refused."""

VECTOR_FIELDS = (
    "age/100",
    "gender",
    *(f"glasses={name}" for name in GLASSES),
    "smile",
    *(f"emotion={name}" for name in EMOTIONS),
    "known:age",
    "known:gender",
    "known:glasses",
    "known:smile",
    "known:emotion",
)
"""Meaning of each entry of the attribute vector, in order (docs/architecture.md)."""

VECTOR_SIZE = len(VECTOR_FIELDS)
MAX_AGE = 120.0


@dataclass(frozen=True)
class Attributes:
    """What is known about a sitter. None means unknown, never "no".

    Attributes:
        age: years, 0…120.
        gender: 0.0 female … 1.0 male.
        glasses: one of GLASSES.
        smile: 0.0…1.0.
        emotion: probabilities of EMOTIONS, in that order.

    Raises:
        ValueError: a value is out of its range; the message names the attribute and the range.
    """

    age: float | None = None
    gender: float | None = None
    glasses: str | None = None
    smile: float | None = None
    emotion: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name, highest in (("age", MAX_AGE), ("gender", 1.0), ("smile", 1.0)):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= highest:
                raise ValueError(f"{name} must be in 0…{highest:g}, found: {value}")
        if self.glasses is not None and self.glasses not in GLASSES:
            raise ValueError(f"glasses must be one of {', '.join(GLASSES)}, found: {self.glasses!r}")
        if self.emotion is not None:
            object.__setattr__(self, "emotion", tuple(float(p) for p in self.emotion))
            if len(self.emotion) != len(EMOTIONS):
                raise ValueError(f"emotion needs {len(EMOTIONS)} probabilities, found: {len(self.emotion)}")

    def vector(self) -> np.ndarray:
        """Returns the float32 vector of VECTOR_FIELDS; unknown values are 0 with their known bit 0."""
        v = np.zeros(VECTOR_SIZE, np.float32)
        known = len(VECTOR_FIELDS) - 5
        if self.age is not None:
            v[0], v[known] = self.age / 100.0, 1.0
        if self.gender is not None:
            v[1], v[known + 1] = self.gender, 1.0
        if self.glasses is not None:
            v[2 + GLASSES.index(self.glasses)], v[known + 2] = 1.0, 1.0
        if self.smile is not None:
            v[5], v[known + 3] = self.smile, 1.0
        if self.emotion is not None:
            v[6 : 6 + len(EMOTIONS)], v[known + 4] = self.emotion, 1.0
        return v

    @classmethod
    def from_vector(cls, vector: np.ndarray) -> Attributes:
        """Inverse of vector() for any vector that vector() made."""
        known = vector[-5:] > 0.5
        return cls(
            # In float32, 120 years come back as a little more.
            age=min(float(vector[0]) * 100.0, MAX_AGE) if known[0] else None,
            gender=float(vector[1]) if known[1] else None,
            glasses=GLASSES[int(np.argmax(vector[2:5]))] if known[2] else None,
            smile=float(vector[5]) if known[3] else None,
            emotion=tuple(float(p) for p in vector[6 : 6 + len(EMOTIONS)]) if known[4] else None,
        )

    def override(self, **changes: Any) -> Attributes:
        """Returns a copy with some attributes changed, as a variant of a sweep asks for."""
        return replace(self, **changes)

    def or_else(self, other: Attributes) -> Attributes:
        """Fills what is unknown here from `other`: labels first, estimates where there is no label."""
        theirs = vars(other)
        return Attributes(**{name: theirs[name] if mine is None else mine for name, mine in vars(self).items()})

    def sources(self, labels: Attributes) -> dict[str, str | None]:
        """Says for each attribute whether it came from `labels` ("label"), was estimated, or is unknown."""

        def source(name: str) -> str | None:
            if getattr(self, name) is None:
                return None
            return "label" if getattr(labels, name) is not None else "estimated"

        return {f.name: source(f.name) for f in fields(self)}


def parse_gender(text: str) -> float | None:
    """Reads "female"/"f"/"male"/"m" (any case) as 0.0/1.0, an empty text as unknown.

    Raises:
        ValueError: anything else.
    """
    word = text.strip().lower()
    if word == "":
        return None
    if word in ("female", "f", "woman"):
        return 0.0
    if word in ("male", "m", "man"):
        return 1.0
    raise ValueError(f"gender must be female or male, found: {text!r}")
