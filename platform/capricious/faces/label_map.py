"""The seven-class label map: a three-class parsing with the boxes of the facial parts painted over it.

Boxes, not outlines, on purpose (paper, "Image Segmentation"): inside a box the generator is free to
choose the shape of the eye or the mouth, and large constant areas make SPADE's modulation cheap.
"""

from __future__ import annotations

import numpy as np

CLASSES = ("background", "skin", "hair", "eyes", "eyebrows", "nose", "mouth")
BACKGROUND, SKIN, HAIR, EYES, EYEBROWS, NOSE, MOUTH = range(len(CLASSES))

# Indices of the 68 iBUG landmarks that bound each part, in painting order: later parts cover earlier ones.
PART_LANDMARKS: tuple[tuple[int, slice], ...] = (
    (EYEBROWS, slice(17, 22)),
    (EYEBROWS, slice(22, 27)),
    (EYES, slice(36, 42)),
    (EYES, slice(42, 48)),
    (NOSE, slice(27, 36)),
    (MOUTH, slice(48, 68)),
)

MARGIN = 0.06
"""Default margin around each box, as a share of the distance between the eye centres."""

PALETTE = np.array(
    [
        [34, 34, 40],  # background
        [232, 190, 160],  # skin
        [120, 82, 50],  # hair
        [70, 130, 200],  # eyes
        [90, 60, 130],  # eyebrows
        [220, 140, 90],  # nose
        [200, 70, 80],  # mouth
    ],
    np.uint8,
)
"""RGB colour of each class in pictures for people."""


def label_map(parsing: np.ndarray, landmarks: np.ndarray, margin: float = MARGIN) -> np.ndarray:
    """Paints the boxes of eyebrows, eyes, nose and mouth over a three-class parsing.

    Args:
        parsing: H×W uint8 of BACKGROUND, SKIN or HAIR.
        landmarks: 68×2 float, (x, y) in pixels of `parsing`, pixel centres at half integers;
            parts outside of the picture are clipped.
        margin: added on every side of a box, as a share of the distance between the eye centres.

    Returns:
        H×W uint8 of the seven CLASSES.

    Raises:
        ValueError: a shape is wrong, or `parsing` has other classes.
    """
    if landmarks.shape != (68, 2):
        raise ValueError(f"landmarks must be 68×2, found: {landmarks.shape}")
    if parsing.ndim != 2 or parsing.max(initial=0) > HAIR:
        raise ValueError("parsing must be H×W of background 0, skin 1 and hair 2")
    height, width = parsing.shape
    eye_distance = np.linalg.norm(landmarks[36:42].mean(0) - landmarks[42:48].mean(0))
    out = parsing.astype(np.uint8, copy=True)
    for part, points in PART_LANDMARKS:
        low = landmarks[points].min(0) - margin * eye_distance
        high = landmarks[points].max(0) + margin * eye_distance
        # A pixel belongs to the box when its centre does.
        left, top = np.clip(np.ceil(low - 0.5), 0, (width, height)).astype(int)
        right, bottom = np.clip(np.floor(high - 0.5) + 1, 0, (width, height)).astype(int)
        out[top:bottom, left:right] = part
    return out


def resize_label_map(labels: np.ndarray, size: int) -> np.ndarray:
    """Resizes a square label map to size×size by nearest neighbour (classes must not be mixed)."""
    source = labels.shape[0]
    if labels.shape != (source, source):
        raise ValueError(f"label map must be square, found: {labels.shape}")
    at = ((np.arange(size) + 0.5) * source / size).astype(int)
    return labels[np.ix_(at, at)]


def colorize(labels: np.ndarray) -> np.ndarray:
    """Turns an H×W label map into an H×W×3 uint8 picture."""
    return PALETTE[labels]
