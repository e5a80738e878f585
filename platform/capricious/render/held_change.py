"""What of a change is kept, before it is put back into a picture: gaze, expression and hues stay the sitter's."""

from __future__ import annotations

import cv2
import numpy as np

from capricious.data.records import Face
from capricious.faces.image import LUMA
from capricious.faces.label_map import EYES, HAIR, MOUTH, resize_label_map
from capricious.model.put_back import FEATURE, FEATURE_GAIN


class HeldChange:
    """Holds changes of one face: light and shade of skin and hair pass in full.

    Args:
        face: its image and label map.
        strength: how many times over the change will be added; the limits are for what is added.
        eyes_limit: levels of 255 that a change stays below in the eyes; inf: no limit.
        mouth_limit: the same of the mouth.
        skin_colour: share of a change's colour that passes where there is no hair, 0…1.
        hair_fades: in hair a change may take from the portrait's colour, at most all of it, and not bring another.
    """

    def __init__(
        self,
        face: Face,
        strength: float,
        eyes_limit: float,
        mouth_limit: float,
        skin_colour: float,
        hair_fades: bool,
    ):
        labels = resize_label_map(face.label_map, face.image.shape[0])
        limits = {EYES: eyes_limit / strength, MOUTH: mouth_limit / strength} if strength else {}
        self._limits = [
            (_outline(labels == label), np.float32(limit)) for label, limit in limits.items() if limit < np.inf
        ]
        hair = _outline(labels == HAIR)
        self._share: np.ndarray | None = None
        if skin_colour < 1 or hair_fades:
            self._share = np.float32(skin_colour) * (1 - hair) + (0 if hair_fades else hair)
        self._fading: np.ndarray | None = None
        if hair_fades:
            own = _colour(face.image.astype(np.float32))
            self._fading, self._most = hair * own, np.float32(-1 / strength if strength else -np.inf)
            self._by_own = own / ((own * own).sum(axis=2, keepdims=True) + 1)  # of less than a level nothing can fade

    def __call__(self, change: np.ndarray) -> np.ndarray:
        """Returns a change, R×R×3 float32 in levels of 255, held."""
        held = change
        if self._share is not None:
            colour = _colour(change)
            held = change - colour + self._share * colour
            if self._fading is not None:
                faded = (colour * self._by_own).sum(axis=2, keepdims=True)
                held += np.clip(faded, self._most, 0) * self._fading
        for inside, limit in self._limits:
            held = held + inside * (limit * np.tanh(held / limit) - held)
        return held


def _colour(values: np.ndarray) -> np.ndarray:
    """Returns what R×R×3 float32 values have beyond their luminance."""
    return values - (values @ LUMA)[..., None]


def _outline(inside: np.ndarray) -> np.ndarray:
    """Returns a class's part of an R×R label map as R×R×1 float32 in 0…1, softly."""
    soft = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), FEATURE * len(inside))
    return np.minimum(FEATURE_GAIN * soft, 1)[..., None]
