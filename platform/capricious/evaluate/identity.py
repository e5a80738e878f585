"""Does the sitter stay the sitter? Cosines of face embeddings, by how far the age was moved."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

CHANGES = (0.0, 10.0, 20.0, 30.0, 40.0, 120.0)
"""Edges in years of the bins of |requested age − own age|."""

FALSE_ACCEPTS = 0.001
"""Share of pairs of different sitters that the threshold lets pass as one person."""

DLIB_DISTANCE = 0.585
"""Euclidean distance of two dlib embeddings below which they count as one person; its author takes 0.6."""


def change_bins(requested: np.ndarray, own_age: np.ndarray) -> np.ndarray:
    """Returns for P portraits and A requested ages the bin of CHANGES, P×A int; −1 where the own age is unknown."""
    change = np.abs(requested[None] - own_age[:, None])
    bins = np.searchsorted(CHANGES, change, side="right") - 1
    return np.where(np.isnan(change), -1, np.minimum(bins, len(CHANGES) - 2))


def bin_names() -> list[str]:
    """Names the bins of CHANGES, e.g. "10–20"."""
    return [f"{low:.0f}–{high:.0f}" if high < 100 else f"{low:.0f} or more" for low, high in pairwise(CHANGES)]


def threshold_at(embeddings: np.ndarray, false_accepts: float = FALSE_ACCEPTS) -> tuple[float, int]:
    """Returns the cosine that only a share of pairs of different sitters exceeds, and the number of pairs.

    Args:
        embeddings: P×D of length 1, of real pictures of P different sitters.
    """
    if len(embeddings) < 2:
        return float("nan"), 0
    cosines = (embeddings @ embeddings.T)[np.triu_indices(len(embeddings), 1)]
    return float(np.quantile(cosines, 1 - false_accepts)), len(cosines)
