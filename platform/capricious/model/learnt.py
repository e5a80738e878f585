"""What a bundle has learnt about attributes: which values its training portraits had, and in which ages they were.

A network answers any request. About what it never saw the answer means nothing, and beyond the ages that it saw it is
a guess: the first is refused, the second is flagged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from capricious.errors import ConfigError
from capricious.faces.attributes import EMOTIONS, GENDERS, GLASSES, Attributes

PERCENTILES = (1, 99)
"""Between them lie the ages that count as learnt: a few wrong labels and rare centenarians teach nothing."""


@dataclass(frozen=True)
class Learnt:
    """Training portraits by what was known about them.

    Attributes:
        counts: attribute → value → portraits; of ages and smiles, which have no values to count, "known" → portraits.
        ages: in years, the PERCENTILES of the known ones; None where none was known.
    """

    counts: Mapping[str, Mapping[str, int]]
    ages: tuple[float, float] | None

    @classmethod
    def of(cls, vectors: np.ndarray) -> Learnt:
        """Counts attribute vectors, N×VECTOR_SIZE, of training portraits."""
        known = vectors[:, -5:] > 0.5
        gender, glasses, emotion = vectors[known[:, 1], 1], vectors[known[:, 2], 2:5], vectors[known[:, 4], 6:-5]
        ages = np.minimum(vectors[known[:, 0], 0] * 100.0, 120.0)
        counts = {
            "age": {"known": len(ages)},
            "gender": _counted(np.rint(gender).astype(int), GENDERS),
            "glasses": _counted(glasses.argmax(1), GLASSES),
            "smile": {"known": int(known[:, 3].sum())},
            "emotion": _counted(emotion.argmax(1), EMOTIONS),
        }
        low, high = np.percentile(ages, PERCENTILES).round(1).tolist() if len(ages) else (0.0, 0.0)
        return cls(counts, (low, high) if len(ages) else None)

    @classmethod
    def of_info(cls, info: Mapping[str, Any]) -> Learnt | None:
        """Reads it from the content of a bundle.json; None where the bundle does not say."""
        if (learnt := info.get("learnt")) is None:
            return None
        return cls(learnt["counts"], learnt["ages"] and tuple(learnt["ages"]))

    def to_json(self) -> dict[str, Any]:
        """Returns it as of_info() reads it under "learnt"."""
        return {"counts": self.counts, "ages": self.ages and list(self.ages)}

    def refuse_unknown(self, changes: Mapping[str, Any]) -> None:
        """Refuses changes to what the bundle never saw.

        Args:
            changes: attribute → value, as of a Variant.

        Raises:
            ConfigError: names the attribute and what the bundle knows.
        """
        for name, value in changes.items():
            seen = self.counts[name]
            if not any(seen.values()):
                raise ConfigError(f"{name} cannot be changed: no portrait that the bundle was trained on had one known")
            word = _word(name, value)
            if word is not None and not seen[word]:
                there = ", ".join(f"{count} {known}" for known, count in seen.items() if count)
                raise ConfigError(f"{name} {word} cannot be rendered: the bundle was trained on {there}, none {word}")

    def extrapolates(self, changes: Mapping[str, Any]) -> bool:
        """Says whether changes ask for an age outside of the learnt ones."""
        age = changes.get("age")
        return age is not None and self.ages is not None and not self.ages[0] <= age <= self.ages[1]


def _counted(places: np.ndarray, names: tuple[str, ...]) -> dict[str, int]:
    return dict(zip(names, np.bincount(places, minlength=len(names)).tolist(), strict=True))


def _word(name: str, value: Any) -> str | None:
    """Names the value of an attribute that has names for its values."""
    if name == "gender":
        return GENDERS[round(value)]
    if name == "emotion":
        return EMOTIONS[int(np.argmax(Attributes(emotion=value).emotion or ()))]
    return value if name == "glasses" else None
