"""What of a change is kept, before it is put back into a picture: gaze, expression and hues stay the sitter's."""

from __future__ import annotations

import cv2
import numpy as np

from capricious.data.records import Face
from capricious.faces.image import LUMA
from capricious.faces.label_map import EYES, HAIR, MOUTH, resize_label_map
from capricious.model.put_back import FEATURE, FEATURE_GAIN, SPREAD_AT


class HeldChange:
    """Holds changes of one face: light and shade of skin pass in full.

    Args:
        face: its image and label map.
        strength: how many times over the change will be added; the limits are for what is added.
        eyes_limit: levels of 255 that a change stays below in the eyes; inf: no limit.
        mouth_limit: the same of the mouth.
        skin_colour: share of a change's colour that passes where there is no hair, 0…1.
        hair_fades: in hair a change may take from the portrait's colour, at most all of it, and not bring another.
        hair_spread: how far light, shade and fading are spread in hair: standard deviation as a share of the crop's
            side; 0: not at all.
    """

    def __init__(
        self,
        face: Face,
        strength: float,
        eyes_limit: float,
        mouth_limit: float,
        skin_colour: float,
        hair_fades: bool,
        hair_spread: float,
    ):
        labels = resize_label_map(face.label_map, face.image.shape[0])
        limits = {EYES: eyes_limit / strength, MOUTH: mouth_limit / strength} if strength else {}
        self._limits = [
            (_outline(labels == label), np.float32(limit)) for label, limit in limits.items() if limit < np.inf
        ]
        hair = _outline(labels == HAIR)
        self._passing = np.float32(skin_colour) * (1 - hair) + (0 if hair_fades else hair)
        self._hair, self._fades = hair, hair_fades
        light, self._own = _parted(face.image)
        self._by_own = self._own / ((self._own * self._own).sum(axis=2, keepdims=True) + 1)  # below a level none fades
        self._most = np.float32(-1 / strength if strength else -np.inf)
        self._spread = _Spread(hair, hair_spread) if hair_spread and hair.any() else None
        if self._spread:
            # What is nearer to white than the hair around it, as skin seen through it, is lightened less, or it would
            # burn out; and so for dark.
            around = self._spread(light)
            self._lighter = np.clip((255 - light) / np.maximum(255 - around, 1), 0, 1)
            self._darker = np.clip(light / np.maximum(around, 1), 0, 1)

    def __call__(self, change: np.ndarray) -> np.ndarray:
        """Returns a change, R×R×3 float32 in levels of 255, held."""
        light, colour = _parted(change)
        held = self._passing * colour
        if self._fades:
            faded = np.clip((colour * self._by_own).sum(axis=2, keepdims=True), self._most, 0)
            held += self._hair * (self._spread(faded) if self._spread else faded) * self._own
        if self._spread:
            even = self._spread(light)
            even *= np.where(even > 0, self._lighter, self._darker)
            light += self._hair * (even - light)
        held += light
        for inside, limit in self._limits:
            held += inside * (limit * np.tanh(held / limit) - held)
        return held


class _Spread:
    """Gives each pixel the mean of the hair around it.

    Args:
        hair: R×R×1 float32, 0…1: the weights.
        sigma: standard deviation of the bell that is "around", as a share of R.
    """

    def __init__(self, hair: np.ndarray, sigma: float):
        self._hair = hair
        self._small = (max(1, len(hair) // SPREAD_AT),) * 2
        self._sigma = sigma * self._small[0]
        self._weight = np.maximum(self._blurred(hair), 1e-3)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """R×R×1 float32 → R×R×1 float32."""
        mean = self._blurred(self._hair * values) / self._weight
        return cv2.resize(mean, values.shape[:2])[..., None]

    def _blurred(self, plane: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(cv2.resize(plane, self._small, interpolation=cv2.INTER_AREA), (0, 0), self._sigma)


def _parted(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the luminance of R×R×3 values, R×R×1 float32, and what they have beyond it, R×R×3."""
    light = (values @ LUMA)[..., None]
    return light, values - light


def _outline(inside: np.ndarray) -> np.ndarray:
    """Returns a class's part of an R×R label map as R×R×1 float32 in 0…1, softly."""
    soft = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), FEATURE * len(inside))
    return np.minimum(FEATURE_GAIN * soft, 1)[..., None]
