"""What all networks that look at pictures for a measurement have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

BATCH = 8
"""Pictures of one call of a network: fewer cost more each, more cost only memory."""


def in_batches(
    images: np.ndarray,
    size: int,
    run: Callable[[np.ndarray], Sequence[np.ndarray]],
    shapes: Sequence[tuple[int, ...]],
) -> list[np.ndarray]:
    """Runs a network over N pictures, `size` at a time; returns each of its outputs for all N.

    Args:
        shapes: of the outputs without their first axis, for the case that N is 0.
    """
    parts = [run(images[start : start + size]) for start in range(0, len(images), size)]
    if not parts:
        return [np.zeros((0, *shape), np.float32) for shape in shapes]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]
