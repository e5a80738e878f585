"""What moves although it should not when only the age is asked to: background, gender, glasses; and how evenly."""

from __future__ import annotations

import numpy as np

from capricious.faces.label_map import BACKGROUND


def background_change(pictures: np.ndarray, reference: np.ndarray, label_map: np.ndarray) -> np.ndarray:
    """Returns the mean change of the background against a reference, for each picture, in levels 0…255.

    Args:
        pictures: V×R×R×3 uint8.
        reference: R×R×3 uint8, the render at the sitter's own age.
        label_map: R×R; nan where it has no background.
    """
    outside = label_map == BACKGROUND
    if not outside.any():
        return np.full(len(pictures), np.nan)
    change = np.abs(pictures[:, outside].astype(np.float32) - reference[outside].astype(np.float32))
    return change.mean((1, 2))


def roughness(pictures: np.ndarray) -> float:
    """Returns the largest step of a sweep over its mean step: 1 when age moves evenly, more when it jumps.

    Args:
        pictures: A×R×R×3 uint8 at evenly spaced ages, ascending; nan where nothing moves at all.
    """
    steps = np.abs(np.diff(pictures.astype(np.float32), axis=0)).mean((1, 2, 3))
    return float(steps.max() / steps.mean()) if len(steps) and steps.max() > 0 else float("nan")


def flips(own: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Returns the share of a sweep's pictures in which a yes-no attribute is not that of the original, P floats.

    Args:
        own: P floats, 0 or 1, nan where unknown.
        found: P×A floats, likewise; unknown ones are left out.
    """
    unknown = np.isnan(found) | np.isnan(own)[:, None]
    different = np.where(unknown, np.nan, found != own[:, None])
    counted = (~unknown).sum(1)
    return np.divide(np.nansum(different, axis=1), counted, out=np.full(len(own), np.nan), where=counted > 0)
