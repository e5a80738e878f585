"""Finding faces: detection and landmarks, and which of them to believe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from capricious.annotate import detect, landmarks
from capricious.annotate.detect import Detection
from capricious.annotate.stopwatch import Stopwatch
from capricious.errors import Rejection


@dataclass(frozen=True)
class Located:
    """A face whose landmarks are believed.

    Attributes:
        detection: where the detector saw it.
        points: 68×2 float32 landmarks, source pixels.
        landmark_score: 0…1.
        size: pixels from between the brows to the chin.
    """

    detection: Detection
    points: np.ndarray
    landmark_score: float
    size: float


class FaceFinder:
    """Chains a detector and a landmark backend. Loads their weights once; reuse it for many pictures.

    Args:
        detector, landmark_backend: by name, see detect.DETECTORS and landmarks.BACKENDS.
        min_face_pixels: faces with less distance from brows to chin, in source pixels, are left out.
        min_confidence: faces with a smaller product of detection and landmark score (0…1) are left out.
    """

    def __init__(
        self,
        detector: str = "auto",
        landmark_backend: str = "auto",
        *,
        min_face_pixels: int = 24,
        min_confidence: float = 0.5,
        device: str = "cpu",
        threads: int = 1,
    ):
        self.stopwatch = Stopwatch()
        self._detector_name = detector
        self._detector = detect.face_detector(detector, threads)
        self._landmarks = landmarks.landmark_detector(landmark_backend, device=device, threads=threads)
        self._min_face_pixels, self._min_confidence = min_face_pixels, min_confidence

    def find(self, image: np.ndarray) -> tuple[list[Located], list[Rejection]]:
        """Returns the distinct faces of an H×W×3 uint8 picture, largest first, and why others are not believed.

        One of the two lists has an entry.
        """
        rejections: list[Rejection] = []
        attempts = self._detector.attempts(image)
        while (detections := self._next(attempts)) is not None:
            located = []
            for detection in sorted(detections, key=lambda detection: -detection.side):
                try:
                    located.append(self._locate(image, detection))
                except Rejection as rejection:
                    rejections.append(rejection)
            if located:
                return _distinct(located), rejections
        height, width = image.shape[:2]
        detail = f"no face found in the {width}×{height} picture (detector: {self._detector_name})"
        return [], rejections or [Rejection("detect", "no-face", detail)]

    def _next(self, attempts: Iterator[list[Detection]]) -> list[Detection] | None:
        """Lets the next detector look: where none of a detector's faces is believed, another may do better."""
        with self.stopwatch.stage("detect"):
            return next(attempts, None)

    def _locate(self, image: np.ndarray, detection: Detection) -> Located:
        with self.stopwatch.stage("landmarks"):
            found = self._landmarks.detect(image, detection)
        size = face_size(found.points)
        if size < self._min_face_pixels:
            raise Rejection(
                "detect",
                "face-too-small",
                f"the face has {size:.0f} pixels from brows to chin, needed are "
                f"{self._min_face_pixels} (annotator.min_face_pixels); find a larger scan",
            )
        if (confidence := detection.score * found.score) < self._min_confidence:
            # Below half of what is needed it is hardly a face: patient detectors see them in coffee cups.
            stage, reason = ("landmarks", "unsure") if 2 * confidence >= self._min_confidence else ("detect", "no-face")
            raise Rejection(
                stage,
                reason,
                f"the best guess at a face has a confidence of {confidence:.2f} (detection {detection.score:.2f} × "
                f"landmarks {found.score:.2f}), needed are {self._min_confidence:g} (annotator.min_confidence)",
            )
        if fault := implausible(found.points, image.shape[1], image.shape[0]):
            raise Rejection("landmarks", "implausible", f"these landmarks are not a face: {fault}")
        return Located(detection, found.points, found.score, size)


def face_size(points: np.ndarray) -> float:
    """Returns the distance from between the brows to the chin in source pixels."""
    return float(np.linalg.norm(points[17:27].mean(0) - points[8]))


def implausible(points: np.ndarray, width: int, height: int) -> str | None:
    """Says what makes 68 landmarks impossible for a face in a width×height picture; None if nothing does.

    The limits are wide: they allow for profiles, open mouths and heads turned by any angle.
    """
    if not np.isfinite(points).all():
        return "a point is not a number"
    inside = ((points >= 0) & (points <= (width, height))).all(1).mean()
    if inside < 0.6:
        return f"only {inside:.0%} of the points are inside of the picture"
    right_eye, left_eye, mouth = points[36:42].mean(0), points[42:48].mean(0), points[48:68].mean(0)
    size = max(face_size(points), 1e-6)
    across = left_eye - right_eye
    if not 0.15 < np.linalg.norm(across) / size < 1.5:
        return "the eyes are too close or too far apart"
    # Down is across turned clockwise: mouth and chin must lie below the eyes.
    down = np.array([-across[1], across[0]]) / np.linalg.norm(across)
    eyes = (right_eye + left_eye) / 2
    if not 0.0 < (mouth - eyes) @ down < (points[8] - eyes) @ down:
        return "eyes, mouth and chin are not in this order"
    return None


def _distinct(candidates: list[Located]) -> list[Located]:
    """Sorts by size and leaves out faces that lie on a larger one: two boxes can lead to one face."""
    kept: list[Located] = []
    for candidate in sorted(candidates, key=lambda candidate: -candidate.size):
        centre = candidate.points[17:].mean(0)
        if all(np.linalg.norm(centre - other.points[17:].mean(0)) > 0.5 * other.size for other in kept):
            kept.append(candidate)
    return kept
