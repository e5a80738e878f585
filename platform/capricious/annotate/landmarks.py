"""Facial landmarks: a detected face to the 68 points of iBUG's scheme."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np

from capricious import weights
from capricious.annotate.detect import Detection, reduce
from capricious.errors import CapriciousError


@dataclass(frozen=True)
class Landmarks:
    """One face's landmarks.

    Attributes:
        points: 68×2 float32 (x, y), source pixels, pixel centres at half integers.
        score: 0…1, how sure the backend is that they lie on a face; 1 where it cannot tell.
    """

    points: np.ndarray
    score: float


class LandmarkDetector(Protocol):
    """Finds the landmarks of a detected face."""

    def detect(self, image: np.ndarray, face: Detection) -> Landmarks:
        """Returns the landmarks of `face` in the H×W×3 uint8 picture."""
        ...


# fmt: off
MESH_TO_68 = np.array([
    127, 227, 177, 215, 138, 136, 149, 176, 152, 400, 378, 365, 367, 435, 401, 447, 356,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
    168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
])
# fmt: on
"""Indices into MediaPipe's 468 mesh points, in iBUG's order: jaw, brows, nose, eyes, outer and inner lips.

Jaw and nostrils are the points that lie nearest to those of dlib and face-api on 200 photos; on 200 others that takes
the jaw's distance to them from 0.19 to 0.08 eye distances, and the nose's from 0.048 to 0.039.
"""
_RIGHT_EYE, _LEFT_EYE = 33, 263  # outer corners in the mesh


class FaceMesh:
    """MediaPipe's face mesh (Kartynnik et al. 2019), 468 points reduced to 68.

    The mesh wants the face upright in the middle of its crop, but detectors differ in what they call a face. So it is
    run again, on the box of its own points, until the crop is NEAR that box, which makes good for boxes half or twice
    as large as they should be; a good box takes one run. Where it sees no face in the first crop it tries a tighter
    and a wider one: some painted faces it only knows at one size.
    """

    INPUT = 192
    CROP = 1.5
    """Side of the crop as a multiple of the points' box, as the mesh was trained."""
    UP, GROW = 0.042, 1.045
    """From a detector's box to that of the points: up by this share of the side, larger by this factor. Medians over
    430 photos and paintings for BlazeFace; HOG's boxes are as near, only less steady."""
    NEAR = (0.05, 0.08, np.radians(5))
    """Centre (in sides), logarithm of the side, roll (radians). A second run from so near brings no better agreement
    with dlib, only a steadier answer to a moved box, by 0.006 eye distances: benchmarks/results/detection.md."""
    MORE = 5
    OTHER_CROPS = (0.77, 1.45)
    BELIEVED = 0.5
    OFFSET = 0.8
    """Input pixels by which the network's points lie too far left: half of the mean difference between 120
    photos and their mirror images. Its strided convolutions pad on one side only, on both axes alike."""

    def __init__(self, threads: int = 1):
        from ai_edge_litert.interpreter import Interpreter

        self._net = Interpreter(str(weights.fetch("face-mesh")), num_threads=threads)
        self._net.allocate_tensors()
        self._input = self._net.get_input_details()[0]["index"]
        outputs = sorted(self._net.get_output_details(), key=lambda output: -int(np.prod(output["shape"])))
        self._points, self._presence = (output["index"] for output in outputs)

    def detect(self, image: np.ndarray, face: Detection) -> Landmarks:
        up = np.array([np.sin(face.roll), -np.cos(face.roll)])
        box = _Box(face.centre + self.UP * face.side * up, max(self.GROW * face.side, 1.0), face.roll)
        mesh, score = self._run(image, box)
        if score < self.BELIEVED:
            others = [replace(box, side=factor * box.side) for factor in self.OTHER_CROPS]
            tries = [(mesh, score, box), *((*self._run(image, other), other) for other in others)]
            mesh, score, box = max(tries, key=lambda found: found[1])
        for _ in range(self.MORE):
            better = _box_of(mesh)
            if better.is_near(box, *self.NEAR):
                break
            again, new_score = self._run(image, better)
            if new_score < min(score, self.BELIEVED):
                break
            mesh, score, box = again, new_score, better
            if score < self.BELIEVED:
                break
        return Landmarks(mesh[MESH_TO_68].astype(np.float32), score)

    def _run(self, image: np.ndarray, box: _Box) -> tuple[np.ndarray, float]:
        """Returns the mesh, 468×2 source pixels, and the presence score of an upright square crop around a box."""
        crop, turn, shift = _cut(image, replace(box, side=self.CROP * box.side), self.INPUT)
        self._net.set_tensor(self._input, (crop.astype(np.float32) / 255.0)[None])
        self._net.invoke()
        points = self._net.get_tensor(self._points).reshape(468, 3)[:, :2].astype(np.float64) + self.OFFSET
        logit = float(self._net.get_tensor(self._presence).item())
        return (points - shift) @ np.linalg.inv(turn).T, 1.0 / (1.0 + np.exp(-np.clip(logit, -80, 80)))


@dataclass(frozen=True)
class _Box:
    """An upright square around a face: centre and side in source pixels, roll in radians."""

    centre: np.ndarray
    side: float
    roll: float

    def is_near(self, other: _Box, centre: float, log_side: float, roll: float) -> bool:
        turn = (self.roll - other.roll + np.pi) % (2 * np.pi) - np.pi
        return (
            float(np.linalg.norm(self.centre - other.centre)) <= centre * self.side
            and abs(np.log(self.side / other.side)) <= log_side
            and abs(turn) <= roll
        )


def _box_of(mesh: np.ndarray) -> _Box:
    low, high = mesh.min(0), mesh.max(0)
    across = mesh[_LEFT_EYE] - mesh[_RIGHT_EYE]
    return _Box((low + high) / 2, max(float(np.max(high - low)), 1.0), float(np.arctan2(across[1], across[0])))


def _cut(image: np.ndarray, box: _Box, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts a box out as an upright size×size crop; returns it, and `turn` and `shift` from source to crop.

    Both sides have pixel centres at half integers. Quicker and plainer than faces.align: black outside of the
    picture, as in the networks' own pipelines.
    """
    cos, sin = np.cos(box.roll), np.sin(box.roll)
    turn = size / max(box.side, 1.0) * np.array([[cos, sin], [-sin, cos]])
    shift = size / 2 - turn @ box.centre
    return _warp(image, turn, shift, size), turn, shift


def _warp(image: np.ndarray, turn: np.ndarray, shift: np.ndarray, size: int) -> np.ndarray:
    corners = (np.array([[0, 0], [size, 0], [0, size], [size, size]]) - shift) @ np.linalg.inv(turn).T
    limit = image.shape[1::-1]
    low = np.clip(np.floor(corners.min(0)), 0, limit).astype(int)
    high = np.clip(np.ceil(corners.max(0)), 0, limit).astype(int)
    if (high <= low).any():
        return np.zeros((size, size, 3), np.uint8)
    # The warp only interpolates: whole factors of shrinking are averaged before.
    factor = min(max(1, int(1.0 / np.sqrt(np.linalg.det(turn)))), *(high - low).tolist())
    small = reduce(image[low[1] : high[1], low[0] : high[0]], factor)
    turn, shift = turn * factor, shift + turn @ low
    # OpenCV has pixel centres at integers.
    matrix = np.hstack([turn, (shift + turn @ np.array([0.5, 0.5]) - 0.5)[:, None]])
    return cv2.warpAffine(small, matrix, (size, size), flags=cv2.INTER_LINEAR)


class DlibLandmarks:
    """dlib's regression trees (Kazemi & Sullivan 2014), as in the paper. Research only (300-W).

    They start from the box, and were trained on the boxes of dlib's own HOG detector; with others they
    drift. So the box is made from the face mesh's landmarks unless `mesh` is None.
    """

    def __init__(self, mesh: FaceMesh | None):
        import dlib

        self._dlib = dlib
        self._mesh = mesh
        self._predictor = dlib.shape_predictor(str(weights.fetch("dlib-landmarks-68")))

    def detect(self, image: np.ndarray, face: Detection) -> Landmarks:
        score, box = 1.0, face.box
        if self._mesh is not None:
            found = self._mesh.detect(image, face)
            score, box = found.score, hog_box(found.points)
        left, top, right, bottom = (round(value) for value in box)
        shape = self._predictor(np.ascontiguousarray(image), self._dlib.rectangle(left, top, right - 1, bottom - 1))
        points = np.array([(point.x, point.y) for point in shape.parts()], np.float32)
        return Landmarks(points + np.float32(0.5), score)


def hog_box(points: np.ndarray) -> tuple[float, float, float, float]:
    """Returns the box that dlib's HOG detector would give to a face with these landmarks.

    Medians over 180 photos (UTKFace, AAF, synthetic portraits) that both found: a square of 2.3 units
    whose centre lies 0.48 units below the eyes; the unit is the larger of the distances from eye to eye
    and from the eyes to the mouth, of which one stays true when the head is turned.
    """
    right_eye, left_eye, mouth = points[36:42].mean(0), points[42:48].mean(0), points[48:68].mean(0)
    eyes = (left_eye + right_eye) / 2
    unit = max(np.linalg.norm(left_eye - right_eye), np.linalg.norm(mouth - eyes))
    x, y, half = eyes[0], eyes[1] + 0.48 * unit, 1.15 * unit
    return float(x - half), float(y - half), float(x + half), float(y + half)


class FaceAlignment:
    """FAN (Bulat & Tzimiropoulos 2017) by the face-alignment package, as in the paper's later tools.

    Its weights are on their author's server only. Where that cannot be reached, put 2DFAN4-11f355bf06.pth.tar into
    $TORCH_HOME/hub/checkpoints (~/.cache/torch/hub/checkpoints), where the package looks itself, or into the folder
    $CAPRICIOUS_WEIGHTS. Research only (300-W).

    The crop is made here: the package's own is neither turned upright nor antialiased, and fails on a box outside of
    the picture. The score is the mean height of the heat maps' peaks, which were trained to be 1; their author takes
    0.6 for a poor and 0.92 for a good landmark (github.com/1adrianb/face-alignment/issues/325).
    """

    WEIGHT = "face-alignment-2dfan4"
    INPUT = 256
    CROP, UP = 2 * 200 / 195, 0.12
    """Side of the crop and how far it lies above the box, in sides: as the package does with its detectors' boxes."""

    def __init__(self, device: str = "cpu"):
        link_into_torch_hub(self.WEIGHT)
        import face_alignment

        # compile=False: compiling takes minutes on a CPU. "folder" needs no detector weights.
        self._net = face_alignment.FaceAlignment(
            face_alignment.LandmarksType.TWO_D,
            device=device,
            face_detector="folder",
            flip_input=False,
            compile=False,
        )

    def detect(self, image: np.ndarray, face: Detection) -> Landmarks:
        up = np.array([np.sin(face.roll), -np.cos(face.roll)])
        box = _Box(face.centre + self.UP * face.side * up, self.CROP * face.side, face.roll)
        crop, turn, shift = _cut(image, box, self.INPUT)
        points, scores, _ = self._net.get_landmarks_from_image(
            crop, detected_faces=[self._whole()], return_landmark_score=True
        )
        score = float(np.clip(np.mean(np.asarray(scores[0])), 0.0, 1.0))
        found = np.asarray(points[0], np.float64) + 0.5
        return Landmarks(((found - shift) @ np.linalg.inv(turn).T).astype(np.float32), score)

    def _whole(self) -> np.ndarray:
        """Returns the box of which the package takes the whole crop."""
        side = self.INPUT / self.CROP
        centre = np.array([self.INPUT / 2, self.INPUT / 2 + self.UP * side])
        return np.array([*(centre - side / 2), *(centre + side / 2)])


def link_into_torch_hub(name: str) -> None:
    """Makes a fetched weight visible to packages that look in torch hub's folder only."""
    path = weights.fetch(name)
    target = weights.torch_hub_folder() / weights.get(name).upstream_file
    if path == target:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(path.resolve())
    except FileExistsError:  # another process was quicker
        if not target.exists():
            raise CapriciousError(f"{target} is a dangling link; remove it") from None


BACKENDS = ("auto", "face-alignment", "mesh", "dlib")


def settled(name: str) -> str:
    """Returns what a name means on this machine: "auto" is face-alignment where its weights are, else the mesh."""
    if name != "auto":
        return name
    return "face-alignment" if weights.lookup(FaceAlignment.WEIGHT) else "mesh"


def landmark_detector(name: str, *, device: str = "cpu", threads: int = 1) -> LandmarkDetector:
    """Makes a backend by name; "auto" is what it means on this machine."""
    name = settled(name)
    if name == "face-alignment":
        return FaceAlignment(device)
    if name == "mesh":
        return FaceMesh(threads)
    if name == "dlib":
        return DlibLandmarks(FaceMesh(threads))
    raise ValueError(f"landmarks must be one of {', '.join(BACKENDS)}, found: {name!r}")


def needed_weights(name: str) -> tuple[str, ...]:
    """Returns the registered weights that `landmark_detector` fetches."""
    named = {"face-alignment": (FaceAlignment.WEIGHT,), "dlib": ("face-mesh", "dlib-landmarks-68")}
    return named.get(settled(name), ("face-mesh",))
