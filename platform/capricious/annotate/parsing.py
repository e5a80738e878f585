"""Parsing: which pixels of an aligned crop are skin and hair, and which are glasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Parsing:
    """What a parser saw in a crop.

    Attributes:
        labels: S×S uint8 of BACKGROUND, SKIN (the whole face with its parts and ears, not the neck) and HAIR.
        glasses: S×S bool, pixels of glasses, lenses included. They are SKIN in `labels`.
    """

    labels: np.ndarray
    glasses: np.ndarray


class Parser(Protocol):
    """Parses aligned crops."""

    size: int
    """Side in pixels of the crops that parse() takes."""

    def parse(self, crop: np.ndarray) -> Parsing:
        """Parses one size×size×3 uint8 crop, aligned as by faces.align."""
        ...
