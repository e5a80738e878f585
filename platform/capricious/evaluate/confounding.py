"""Which attributes of the sitters go together, so that a network could learn one and call it the other."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

WEAK = 0.1
"""Cramér's V below which two attributes are taken as independent for practical purposes."""


@dataclass(frozen=True)
class Confound:
    """How strongly two attributes go together, and where it shows most.

    Attributes:
        axes: the two attributes, as axes of the table.
        strength: Cramér's V, 0 (independent) … 1 (one tells the other).
        group, outcome: indices of the values of the first and of the second attribute that meet most unexpectedly.
        share, expected: share of `outcome` within `group`, and among all.
    """

    axes: tuple[int, int]
    strength: float
    group: int
    outcome: int
    share: float
    expected: float


def confounds(table: np.ndarray) -> list[Confound]:
    """Compares all pairs of axes of a contingency table, strongest first.

    Args:
        table: counts, one axis for each attribute. A pair is left out where an attribute has one value only.
    """
    found = []
    for axes in combinations(range(table.ndim), 2):
        others = tuple(axis for axis in range(table.ndim) if axis not in axes)
        if confound := _compare(table.sum(others), axes):
            found.append(confound)
    return sorted(found, key=lambda confound: -confound.strength)


def _compare(counts: np.ndarray, axes: tuple[int, int]) -> Confound | None:
    """Compares two attributes: rows and columns of `counts`."""
    rows, columns = np.flatnonzero(counts.sum(1)), np.flatnonzero(counts.sum(0))
    if min(len(rows), len(columns)) < 2:
        return None
    row, column = np.unravel_index(np.argmax(adjusted_residuals(counts)), counts.shape)
    return Confound(
        axes,
        _cramers_v(counts[np.ix_(rows, columns)]),
        int(row),
        int(column),
        float(counts[row, column] / counts[row].sum()),
        float(counts[:, column].sum() / counts.sum()),
    )


def adjusted_residuals(counts: np.ndarray) -> np.ndarray:
    """How far each cell of a table is from independence of rows and columns, in standard deviations.

    Haberman 1973, "The Analysis of Residuals in Cross-Classified Tables", equation 2.3: by chance about N(0, 1)
    in common and rare cells alike. 0 in a row or column that is empty or the only one.

    Args:
        counts: R×C, not negative.
    """
    total = max(counts.sum(), 1)
    rows, columns = counts.sum(1, keepdims=True) / total, counts.sum(0, keepdims=True) / total
    deviation = np.sqrt(total * rows * columns * (1 - rows) * (1 - columns))
    return np.divide(counts - total * rows * columns, deviation, out=np.zeros(counts.shape), where=deviation > 1e-9)


def _cramers_v(counts: np.ndarray) -> float:
    """Cramér's V of a table without empty rows and columns.

    Corrected for its bias (Bergsma 2013, "A bias-correction for Cramér's V and Tschuprow's T", section 3): chance
    alone gives about 0, also where there are few portraits and many cells.
    """
    total, (rows, columns) = counts.sum(), counts.shape
    if total < 2:
        return 0.0
    expected = np.outer(counts.sum(1), counts.sum(0)) / total
    chi_square = ((counts - expected) ** 2 / expected).sum()
    phi_square = max(0.0, chi_square / total - (rows - 1) * (columns - 1) / (total - 1))
    smaller = min(n - (n - 1) ** 2 / (total - 1) for n in (rows, columns))
    return float(min(1.0, np.sqrt(phi_square / (smaller - 1)))) if smaller > 1 else 0.0
