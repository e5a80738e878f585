"""Does a render keep to its label map? The map that is read from the render against the map that was given."""

from __future__ import annotations

import numpy as np

from capricious.faces.label_map import BACKGROUND, EYEBROWS, EYES, HAIR, MOUTH, NOSE, SKIN

REGIONS = (BACKGROUND, SKIN, HAIR)
PARTS = (EYES, EYEBROWS, NOSE, MOUTH)


def region_iou(given: np.ndarray, found: np.ndarray) -> float:
    """Returns the mean intersection over union of background, skin and hair.

    Compared where neither map has a part's box: what a box hides is not known. A class that neither map shows is left
    out.

    Args:
        given, found: H×W uint8 label maps of the seven classes.
    """
    open_ = ~(np.isin(given, PARTS) | np.isin(found, PARTS))
    return _mean_iou(given[open_], found[open_], REGIONS)


def part_iou(given: np.ndarray, found: np.ndarray) -> float:
    """Returns the mean intersection over union of the boxes of eyes, eyebrows, nose and mouth; arguments as above."""
    return _mean_iou(given, found, PARTS)


def _mean_iou(given: np.ndarray, found: np.ndarray, classes: tuple[int, ...]) -> float:
    ious = []
    for kind in classes:
        one, other = given == kind, found == kind
        if union := (one | other).sum():
            ious.append((one & other).sum() / union)
    return float(np.mean(ious)) if ious else float("nan")
