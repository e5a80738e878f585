"""Face detection: a picture to boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from capricious import weights


@dataclass(frozen=True)
class Detection:
    """One face.

    Attributes:
        box: left, top, right, bottom in source pixels, from the forehead to the chin; may leave the picture.
        score: 0…1.
        roll: how far the face is turned clockwise in the picture plane, radians.
    """

    box: tuple[float, float, float, float]
    score: float
    roll: float = 0.0

    @property
    def centre(self) -> np.ndarray:
        left, top, right, bottom = self.box
        return np.array([(left + right) / 2, (top + bottom) / 2])

    @property
    def side(self) -> float:
        """The longer side in source pixels."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


class Detector(Protocol):
    """Finds faces."""

    def detect(self, image: np.ndarray) -> list[Detection]:
        """Returns the faces of an H×W×3 uint8 picture, best first; an empty list where there are none."""
        ...


class Chain:
    """Asks one detector after the other until one finds a face."""

    def __init__(self, detectors: Sequence[Detector]):
        self._detectors = detectors

    def detect(self, image: np.ndarray) -> list[Detection]:
        for detector in self._detectors:
            if found := detector.detect(image):
                return found
        return []


class BlazeFace:
    """MediaPipe's short-range BlazeFace (Bazarevsky et al. 2019), on the picture and on tiles of it.

    The network sees 128×128 pixels and misses faces below about a sixth of that. Pictures therefore are
    searched as a whole and then in overlapping tiles of a half and a quarter of their longer side, as
    long as a tile has MIN_TILE pixels. Where nothing is found the face may fill the frame, so the
    picture is tried once more with a margin around it.
    """

    INPUT = 128
    MIN_TILE = 256
    THRESHOLD = 0.5
    TILE_THRESHOLD = 0.75
    """Higher than THRESHOLD: with 58 looks at a picture, false alarms add up."""

    def __init__(self, threads: int = 1):
        from ai_edge_litert.interpreter import Interpreter

        self._net = Interpreter(str(weights.fetch("blazeface")), num_threads=threads)
        self._net.allocate_tensors()
        self._input = self._net.get_input_details()[0]["index"]
        outputs = {output["name"]: output["index"] for output in self._net.get_output_details()}
        self._regressors, self._logits = outputs["regressors"], outputs["classificators"]
        self._anchors = anchors()

    def detect(self, image: np.ndarray) -> list[Detection]:
        longest = max(image.shape[:2])
        found = self._look(image, longest, 0.0, self.THRESHOLD)
        for tile in (longest / 2, longest / 4):
            if tile >= self.MIN_TILE:
                found += self._look(image, tile, 0.0, self.TILE_THRESHOLD)
        return suppress(found or self._look(image, 2 * longest, 0.5 * longest, self.THRESHOLD))

    def _look(self, image: np.ndarray, tile: float, margin: float, threshold: float) -> list[Detection]:
        """Searches square tiles of side `tile`, half overlapping, of the picture within `margin`; source pixels."""
        scale = self.INPUT / tile
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        border = round(margin * scale)
        # Letterboxed to at least one input; black as in MediaPipe.
        bottom, right = (max(border, self.INPUT - side - border) for side in (height, width))
        small = cv2.copyMakeBorder(small, border, bottom, border, right, cv2.BORDER_CONSTANT)
        found: list[Detection] = []
        for y in _starts(small.shape[0], self.INPUT):
            for x in _starts(small.shape[1], self.INPUT):
                patch = small[y : y + self.INPUT, x : x + self.INPUT]
                found += self._run(patch, np.array([x - border, y - border]), scale, threshold)
        return found

    def _run(self, patch: np.ndarray, origin: np.ndarray, scale: float, threshold: float) -> Iterator[Detection]:
        self._net.set_tensor(self._input, (patch.astype(np.float32) / 127.5 - 1.0)[None])
        self._net.invoke()
        logits = self._net.get_tensor(self._logits)[0, :, 0]
        scores = 1.0 / (1.0 + np.exp(-np.clip(logits, -80, 80)))
        for i in np.flatnonzero(scores >= threshold):
            values = self._net.get_tensor(self._regressors)[0, i].astype(np.float64).reshape(8, 2)
            # Rows: centre, size, then right eye, left eye, nose, mouth and ears; all but the size from the anchor.
            centre, *points = np.delete(values, 1, axis=0) + self._anchors[i] * self.INPUT
            low, high = ((centre + sign * values[1] / 2 + origin) / scale for sign in (-1, 1))
            across = points[1] - points[0]
            yield Detection((*low, *high), float(scores[i]), float(np.arctan2(across[1], across[0])))


def anchors() -> np.ndarray:
    """Returns BlazeFace's 896×2 anchor centres (x, y) in 0…1: per cell two at stride 8, six at stride 16.

    (Four layers of strides 8, 16, 16, 16 with two anchors each; layers of one stride share their cells.)
    """
    layers = []
    for stride, count in ((8, 2), (16, 6)):
        cells = BlazeFace.INPUT // stride
        at = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)
        layers.append(np.repeat(grid, count, axis=0))
    return np.concatenate(layers)


def _starts(length: int, tile: int) -> list[int]:
    """Where tiles of `tile` pixels begin so that they cover `length` and overlap by at least a half."""
    count = 1 if length <= tile else 1 + int(np.ceil((length - tile) / (tile / 2)))
    return [round(start) for start in np.linspace(0, length - tile, count)]


def suppress(
    detections: Sequence[Detection], overlap: float = 0.3, covered: float = 0.6, agreement: float = 0.5
) -> list[Detection]:
    """Non-maximum suppression, best first.

    A box goes when its intersection over union with a better one exceeds `overlap`, or when the
    intersection is more than `covered` of the smaller box: a tile's edge leaves parts of faces.
    Boxes that overlap by more than `agreement` are averaged into the one that stays, weighted by score
    ("blending", as BlazeFace's paper does to steady its boxes).
    """
    kept: list[Detection] = []
    left = sorted(detections, key=lambda detection: -detection.score)
    while left:
        best, *others = left
        near, left = [best], []
        for other in others:
            iou, share = _overlap(best, other)
            if iou > agreement:
                near.append(other)
            elif iou <= overlap and share <= covered:
                left.append(other)
        scores = np.array([detection.score for detection in near])
        box = np.average([detection.box for detection in near], axis=0, weights=scores)
        kept.append(Detection((*box.tolist(),), best.score, best.roll))
    return kept


def _overlap(a: Detection, b: Detection) -> tuple[float, float]:
    """Returns intersection over union, and over the smaller box."""
    low, high = np.maximum(a.box[:2], b.box[:2]), np.minimum(a.box[2:], b.box[2:])
    shared = float(np.prod(np.maximum(high - low, 0.0)))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a.box, b.box)]
    return shared / max(sum(areas) - shared, 1e-9), shared / max(min(areas), 1e-9)


class DlibHog:
    """dlib's HOG detector (Dalal & Triggs 2005): frontal, upright faces of at least 40 pixels.

    Pictures are brought to at most MAX_SIDE pixels first: the search is exhaustive over scales, and
    slow on scans of paintings.
    """

    MAX_SIDE = 1000

    def __init__(self) -> None:
        import dlib

        self._detector = dlib.get_frontal_face_detector()

    def detect(self, image: np.ndarray) -> list[Detection]:
        scale = min(1.0, self.MAX_SIDE / max(image.shape[:2]))
        if scale < 1.0:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        upsample = 1 if max(image.shape[:2]) * 2 <= self.MAX_SIDE else 0
        boxes, scores, _ = self._detector.run(np.ascontiguousarray(image), upsample, 0.0)
        found = []
        for box, score in zip(boxes, scores, strict=True):
            corners = (
                box.left() / scale,
                box.top() / scale,
                (box.right() + 1) / scale,
                (box.bottom() + 1) / scale,
            )
            # The score is the distance from the SVM's plane, 0…3 or so; the squashed one only sorts.
            found.append(Detection(corners, float(1.0 / (1.0 + np.exp(-2.0 * score)))))
        return found
