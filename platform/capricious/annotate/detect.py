"""Face detection: a picture to boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np

from capricious import weights


@dataclass(frozen=True)
class Detection:
    """One face.

    Attributes:
        box: left, top, right, bottom in source pixels, from the forehead to the chin; may leave the picture.
        score: 0…1, how sure the detector is. All report from about 0.5 on, but each has a scale of its own: it sorts
            the faces of a picture; whether to believe in one is told by the landmarks' score.
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
        return next(self.attempts(image), [])

    def attempts(self, image: np.ndarray) -> Iterator[list[Detection]]:
        """Yields what each detector that finds anything finds, as long as the caller asks for more.

        For callers that can tell a false face: where none of the first detector's is true, the next may do better.
        """
        for detector in self._detectors:
            if found := detector.detect(image):
                yield found


class BlazeFace:
    """MediaPipe's short-range BlazeFace (Bazarevsky et al. 2019), on the picture and on tiles of it.

    The network sees 128×128 pixels and misses faces below about a sixth of that. Pictures therefore are
    searched as a whole and then in overlapping tiles of a half, a quarter … of their longer side; where a
    face is small even for the finest tiles, in finer ones too, as others of a group may be smaller still.
    Where nothing is found the face may fill the frame, so the picture is tried once more with a margin.

    Args:
        threads: CPU threads of the network.
        finest: the longer side over the finest tiles' side, a power of two.
        smallest: tiles of fewer source pixels are not searched.
        threshold: the least score of a face in the whole picture.
        tile_threshold: the least score of a face in a tile. Higher: with dozens of looks at a picture, false
            alarms add up.
    """

    INPUT = 128
    SMALL = 0.2
    """The share of a tile's side under which a face is small."""
    FLAT = 4.0
    """Tiles in which no colour has this standard deviation (0…255) are not searched: bare canvas, sky, dark ground."""

    def __init__(
        self,
        threads: int = 1,
        *,
        finest: int = 4,
        smallest: int = 256,
        threshold: float = 0.5,
        tile_threshold: float = 0.75,
    ):
        from ai_edge_litert.interpreter import Interpreter

        self._net = Interpreter(str(weights.fetch("blazeface")), num_threads=threads)
        self._net.allocate_tensors()
        self._input = self._net.get_input_details()[0]["index"]
        outputs = {output["name"]: output["index"] for output in self._net.get_output_details()}
        self._regressors, self._logits = outputs["regressors"], outputs["classificators"]
        self._anchors = anchors() * self.INPUT
        self._finest, self._smallest = finest, smallest
        self._threshold, self._tile_threshold = threshold, tile_threshold

    def detect(self, image: np.ndarray) -> list[Detection]:
        longest = max(image.shape[:2])
        tiles = [float(longest)]
        while longest / tiles[-1] < self._finest and tiles[-1] / 2 >= self._smallest:
            tiles.append(tiles[-1] / 2)
        found, level = [], image
        for tile in reversed(tiles):  # each level is shrunk from the finer one: a huge scan is read once
            level = _resize(level, image.shape, self.INPUT / tile)
            found += self._search(
                level, self.INPUT / tile, self._threshold if tile == longest else self._tile_threshold
            )
        finer = tiles[-1] / 2
        while finer >= self.INPUT and any(face.side < self.SMALL * 2 * finer for face in found):
            level = _resize(image, image.shape, self.INPUT / finer)
            more = self._search(level, self.INPUT / finer, self._tile_threshold)
            found, finer = found + more, finer / 2
        return suppress(found or self._search_with_margin(image))

    def _search_with_margin(self, image: np.ndarray) -> list[Detection]:
        """Searches the picture at half the size in the middle of the input."""
        scale = self.INPUT / (2 * max(image.shape[:2]))
        return self._search(_resize(image, image.shape, scale), scale, self._threshold, self.INPUT // 4)

    def _search(self, level: np.ndarray, scale: float, threshold: float, margin: int = 0) -> list[Detection]:
        """Searches half overlapping tiles of a picture shrunk by `scale` and set into a margin; source pixels."""
        # Letterboxed to at least one input; black as in MediaPipe.
        bottom, right = (max(margin, self.INPUT - side - margin) for side in level.shape[:2])
        level = cv2.copyMakeBorder(level, margin, bottom, margin, right, cv2.BORDER_CONSTANT)
        found: list[Detection] = []
        for y in _starts(level.shape[0], self.INPUT):
            for x in _starts(level.shape[1], self.INPUT):
                patch = level[y : y + self.INPUT, x : x + self.INPUT]
                if cv2.meanStdDev(patch)[1].max() >= self.FLAT:
                    found += self._look(patch, np.array([x, y]) - margin, scale, threshold)
        return found

    def _look(self, patch: np.ndarray, origin: np.ndarray, scale: float, threshold: float) -> list[Detection]:
        self._net.set_tensor(self._input, (patch.astype(np.float32) / 127.5 - 1.0)[None])
        self._net.invoke()
        logits = self._net.get_tensor(self._logits)[0, :, 0].astype(np.float64)
        hits = np.flatnonzero(logits >= np.log(threshold / (1.0 - threshold)))
        if not hits.size:
            return []
        scores = 1.0 / (1.0 + np.exp(-np.minimum(logits[hits], 80.0)))
        # Rows: centre, size, then right eye, left eye, nose, mouth and ears; all but the size from the anchor.
        values = self._net.get_tensor(self._regressors)[0, hits].astype(np.float64).reshape(-1, 8, 2)
        centres, halves = values[:, 0] + self._anchors[hits] + origin, values[:, 1] / 2
        boxes = np.hstack([centres - halves, centres + halves]) / scale
        across = values[:, 3] - values[:, 2]
        rolls = np.arctan2(across[:, 1], across[:, 0])
        found = zip(boxes.tolist(), scores.tolist(), rolls.tolist(), strict=True)
        return [Detection((*box,), score, roll) for box, score, roll in found]


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


def _resize(level: np.ndarray, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Brings a picture of this shape, or a smaller copy of it, to `scale` times the picture's size."""
    height, width = (max(1, round(side * scale)) for side in shape[:2])
    level = reduce(level, min(level.shape[0] // height, level.shape[1] // width))
    return cv2.resize(level, (width, height), interpolation=cv2.INTER_LINEAR)


def reduce(image: np.ndarray, factor: int) -> np.ndarray:
    """Averages blocks of factor×factor pixels; what is left over at the right and below is cut off.

    With a bilinear step after it this is five times as fast as OpenCV's area interpolation by fractions.
    """
    if factor <= 1:
        return image
    height, width = (side // factor for side in image.shape[:2])
    whole = image[: height * factor, : width * factor]
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)


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
    left = sorted(detections, key=lambda detection: -detection.score)
    boxes = np.array([detection.box for detection in left]).reshape(-1, 4)
    scores = np.array([detection.score for detection in left])
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    open_, kept = np.arange(len(left)), []
    while open_.size:
        best = open_[0]
        low, high = np.maximum(boxes[best, :2], boxes[open_, :2]), np.minimum(boxes[best, 2:], boxes[open_, 2:])
        shared = np.prod(np.maximum(high - low, 0.0), axis=1)
        iou = shared / np.maximum(areas[best] + areas[open_] - shared, 1e-9)
        share = shared / np.maximum(np.minimum(areas[best], areas[open_]), 1e-9)
        iou[0] = share[0] = 1.0  # itself, even without area
        near = open_[iou > agreement]
        box = scores[near] @ boxes[near] / scores[near].sum()
        kept.append(replace(left[best], box=(*box.tolist(),)))
        open_ = open_[(iou <= overlap) & (share <= covered)]
    return kept


class AnyWayUp:
    """Asks a detector about the picture as it is and, where that leaves doubt, about the picture turned.

    For scans on their side or upside down. The way up that scores best wins: BlazeFace and the mesh may take an
    upside-down face for an upright one, but on 193 pictures BlazeFace gave it less than DOUBT in 99 %, and the
    upright face more in 99.5 %.
    """

    DOUBT = 0.8
    MARGIN = 0.05
    """By so much a turned picture must score better than the picture as it is."""

    def __init__(self, detector: Detector):
        self._detector = detector

    def detect(self, image: np.ndarray) -> list[Detection]:
        found = self._detector.detect(image)
        best = found[0].score if found else 0.0
        if best >= self.DOUBT:
            return found
        for quarters in (1, 3, 2):
            turned = self._detector.detect(np.ascontiguousarray(np.rot90(image, quarters)))
            if turned and turned[0].score > best + self.MARGIN:
                best = turned[0].score
                found = [_turn_back(face, quarters, image.shape) for face in turned]
        return found


def _turn_back(face: Detection, quarters: int, shape: tuple[int, ...]) -> Detection:
    """Maps a face in np.rot90(image, quarters) to the image of this shape."""
    height, width = shape[:2]
    x, y = np.array(face.box).reshape(2, 2).T
    back = np.array({1: (width - y, x), 2: (width - x, height - y), 3: (y, height - x)}[quarters])
    roll = (face.roll + quarters * np.pi / 2 + np.pi) % (2 * np.pi) - np.pi
    return Detection((*back.min(1).tolist(), *back.max(1).tolist()), face.score, float(roll))


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


DETECTORS = ("auto", "blazeface", "dlib")


def face_detector(name: str, threads: int = 1) -> Chain:
    """Makes a detector by name.

    "auto" is BlazeFace whichever way up the picture is, then BlazeFace with smaller tiles and lower thresholds. That
    finds false faces, too: use Chain.attempts() and believe the landmarks' score.
    """
    if name not in DETECTORS:
        raise ValueError(f"detector must be one of {', '.join(DETECTORS)}, found: {name!r}")
    if name == "dlib":
        return Chain([DlibHog()])
    blazeface = BlazeFace(threads)
    if name == "blazeface":
        return Chain([blazeface])
    return Chain([AnyWayUp(blazeface), BlazeFace(threads, finest=8, smallest=100, tile_threshold=0.7)])
